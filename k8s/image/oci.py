# SPDX-License-Identifier: Apache-2.0
"""OCI images without a daemon: layers are tar files, an image is an archive that `ctr images import` and `podman load` take.

The same input gives the same bytes: entries are sorted, owned by root, and dated by SOURCE_DATE_EPOCH (the epoch without).
Format: OCI image specification 1.1, "image-layout"; the name by which containerd knows the image is the annotation
io.containerd.image.name of its manifest in index.json.
"""
import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
import time

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


class Layer:
    """What goes into one layer: files with the path they have in the image."""

    def __init__(self):
        self.entries = {}

    def directory(self, path, mode=0o755, owner=0):
        path = path.strip("/")
        parent = os.path.dirname(path)
        if parent and parent not in self.entries:
            self.directory(parent)
        if path:
            self.entries[path] = ("dir", mode, owner, b"")

    def file(self, path, content, mode=0o644, owner=0):
        self._parent(path)
        self.entries[path.strip("/")] = ("file", mode, owner, content)

    def link(self, path, target):
        self._parent(path)
        self.entries[path.strip("/")] = ("link", 0o777, 0, target)

    def copy(self, path, source):
        """A file or a symbolic link as it is on disk; its owner and set-id bits are not taken over."""
        info = os.lstat(source)
        if stat.S_ISLNK(info.st_mode):
            self.link(path, os.readlink(source))
        else:
            with open(source, "rb") as f:
                self.file(path, f.read(), 0o755 if info.st_mode & 0o111 else 0o644)

    def _parent(self, path):
        parent = os.path.dirname(path.strip("/"))
        if parent and parent not in self.entries:
            self.directory(parent)

    def tar(self):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for path in sorted(self.entries):
                kind, mode, owner, content = self.entries[path]
                info = tarfile.TarInfo(path)
                info.mode, info.mtime, info.uid, info.gid = mode, EPOCH, owner, owner
                if kind == "dir":
                    info.type = tarfile.DIRTYPE
                    archive.addfile(info)
                elif kind == "link":
                    info.type, info.linkname = tarfile.SYMTYPE, content
                    archive.addfile(info)
                else:
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return out.getvalue()


def write_image(out, name, layers, config=None, level=6):
    """Write the archive `out` for the image `name`; `config` is the image's "config" object (Entrypoint, User, Env…)."""
    blobs = {}

    def blob(content, media_type):
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(content)}

    def document(content, media_type):
        return blob(json.dumps(content, sort_keys=True, separators=(",", ":")).encode(), media_type)

    tars = [layer.tar() for layer in layers]
    described = [blob(gzip.compress(tar, level, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip") for tar in tars]
    image = document({
        "architecture": ARCHITECTURE, "os": "linux", "config": config or {},
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH)),
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars]},
    }, "application/vnd.oci.image.config.v1+json")
    manifest = document({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                         "config": image, "layers": described}, "application/vnd.oci.image.manifest.v1+json")
    manifest["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rsplit(":", 1)[-1]}
    manifest["platform"] = {"architecture": ARCHITECTURE, "os": "linux"}
    archive = Layer()
    archive.file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    archive.file("index.json", json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                                           "manifests": [manifest]}, sort_keys=True).encode())
    for digest, content in blobs.items():
        archive.file("blobs/sha256/" + digest, content)
    temporary = f"{out}.{os.getpid()}"
    with open(temporary, "wb") as f:
        f.write(archive.tar())
    os.rename(temporary, out)
    return {"digest": manifest["digest"], "packed": sum(d["size"] for d in described), "unpacked": sum(map(len, tars))}
