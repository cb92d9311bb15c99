#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A registry of images, read-only: registry.py PORT NAME=ARCHIVE… serves OCI archives on loopback, as much of the distribution
API as a pull takes. For manifests that say imagePullPolicy: Always. Prints a line when it listens; ends when its standard input
does."""
import http.server
import json
import sys
import tarfile
import threading

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Handler(http.server.BaseHTTPRequestHandler):
    images = {}

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        kind, reference = (parts[-2], parts[-1]) if len(parts) > 3 else (None, None)
        archive = self.images.get("/".join(parts[1:-2]))
        if parts == ["v2"]:
            self.send(b"{}", "application/json")
        elif archive and kind in ("manifests", "blobs"):
            with tarfile.open(archive) as tar:
                digest = reference
                if not reference.startswith("sha256:"):
                    digest = json.load(tar.extractfile("index.json"))["manifests"][0]["digest"]
                try:
                    content = tar.extractfile("blobs/sha256/" + digest.removeprefix("sha256:"))
                except KeyError:
                    self.send_error(404)
                    return
                self.send(content.read(), OCI_MANIFEST if kind == "manifests" else "application/octet-stream", digest)
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def send(self, content, kind, digest=None):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    Handler.images = dict(word.split("=", 1) for word in sys.argv[2:])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print("listening", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
