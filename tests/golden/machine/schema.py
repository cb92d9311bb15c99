# SPDX-License-Identifier: Apache-2.0
"""Checks options of a QEMU command line against what a QEMU version says of itself.

schemas/VERSION.json.xz hold what `query-qmp-schema` (cut down to the four commands below) and `device-list-properties`
of Debian's QEMU answered. Type names are masked in a schema, so every walk starts at a command.
"""
import json
import lzma
from pathlib import Path

SCHEMAS = Path(__file__).parent / "schemas"
# The recorded schemas are of qemu-system-x86_64: what only other boards have.
OTHER_BOARDS = {"tpm-tis-device"}
# In a package of its own (qemu-system-modules-spice), which was not installed for the record.
OTHER_PACKAGES = {"qxl-vga"}
COMMANDS = {"-blockdev": "blockdev-add", "-netdev": "netdev_add", "-object": "object-add"}
INTEGERS = {"int", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "size"}


class Schema:
    def __init__(self, version):
        data = json.loads(lzma.decompress((SCHEMAS / f"{version}.json.xz").read_bytes()))
        self.types = {e["name"]: e for e in data["schema"]}
        self.devices = set(data["devices"])
        self.properties = data["properties"]
        self.machines = set(data["machines"]) | set(data["aliases"])

    # ---- values against QAPI types

    def check(self, name, value, where):
        entity = self.types.get(name)
        if entity is None or entity["meta-type"] == "builtin":
            kind = name if entity is None else entity["json-type"]
            return self.check_builtin(kind, value, where)
        return getattr(self, "check_" + entity["meta-type"])(entity, value, where)

    def check_builtin(self, kind, value, where):
        wanted = {"str": str, "string": str, "bool": bool, "boolean": bool, "int": int, "number": (int, float),
                  "null": type(None), "value": object, "any": object}[kind]
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            yield f"{where}: {value!r} is no {kind}"

    def check_enum(self, entity, value, where):
        values = entity.get("values") or [m["name"] for m in entity["members"]]
        if value not in values:
            yield f"{where}: {value!r} is none of {', '.join(values)}"

    def check_array(self, entity, value, where):
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
            return
        for i, item in enumerate(value):
            yield from self.check(entity["element-type"], item, f"{where}[{i}]")

    def check_alternate(self, entity, value, where):
        attempts = [list(self.check(m["type"], value, where)) for m in entity["members"]]
        if all(attempts):
            yield min(attempts, key=len)[0]

    def check_object(self, entity, value, where):
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no object"
            return
        members = self.members(entity, value)
        for key, item in value.items():
            if key in members:
                yield from self.check(members[key]["type"], item, f"{where}.{key}")
            else:
                yield f"{where}: there is no member {key}"
        for key, member in members.items():
            if "default" not in member and key not in value:
                yield f"{where}: member {key} is missing"

    def members(self, entity, value):
        members = {m["name"]: m for m in entity["members"]}
        if "tag" in entity:
            for variant in entity["variants"]:
                if variant["case"] == value.get(entity["tag"]):
                    branch = self.types.get(variant["type"])
                    members.update(self.members(branch, value) if branch else {})
        return members

    # ---- options

    def check_option(self, name, text):
        if name in COMMANDS:
            return list(self.check(self.types[COMMANDS[name]]["arg-type"], json.loads(text), name))
        if name == "-device":
            return list(self.check_device(json.loads(text)))
        if name == "-chardev":
            return list(self.check_chardev(text))
        return []

    def check_device(self, device):
        driver = device["driver"]
        if driver not in self.devices | OTHER_BOARDS | OTHER_PACKAGES:
            yield f"-device: there is no {driver}"
        base = driver.removesuffix("-non-transitional").removesuffix("-transitional")
        properties = self.properties.get(base)
        if properties is None:
            return
        for key, value in device.items():
            if key in ("driver", "id", "bus"):
                continue
            if key not in properties:
                yield f"-device {driver}: there is no property {key}"
            elif properties[key] == "bool":
                if not isinstance(value, bool):
                    yield f"-device {driver}: {key} is {value!r}, no bool"
            elif properties[key] in INTEGERS and key != "addr":
                if not isinstance(value, int) or isinstance(value, bool):
                    yield f"-device {driver}: {key} is {value!r}, no {properties[key]}"
            elif not isinstance(value, (str, list)):
                yield f"-device {driver}: {key} is {value!r}, no string"

    def check_chardev(self, text):
        backend, *rest = parse_keyval(text)
        options = dict(rest)
        data = {}
        union = self.types[self.member_type(self.types["chardev-add"]["arg-type"], "backend")]
        branch = next((v for v in union["variants"] if v["case"] == backend[0]), None)
        if branch is None:
            yield f"-chardev: there is no backend {backend[0]}"
            return
        wrapped = self.types[branch["type"]]["members"][0]["type"]
        known = {m["name"]: m["type"] for m in self.types[wrapped]["members"]}
        for key, value in options.items():
            if key == "id" or (backend[0] == "socket" and key in ("path", "fd")):
                continue
            name = {"path": "device"}.get(key, key) if backend[0] == "pipe" else key
            if name not in known:
                yield f"-chardev {backend[0]}: there is no option {key}"
                continue
            data[name] = value == "on" if known[name] == "bool" else value
        if backend[0] == "socket":
            data["addr"] = ({"type": "fd", "data": {"str": options["fd"]}} if "fd" in options
                            else {"type": "unix", "data": {"path": options["path"]}})
        yield from self.check(wrapped, data, f"-chardev {backend[0]}")

    def member_type(self, name, member):
        return next(m["type"] for m in self.types[name]["members"] if m["name"] == member)


def parse_keyval(text):
    """"a,b=c,,d" -> [("a", None), ("b", "c,d")], as QEMU's util/qemu-option.c reads it."""
    parts, current, i = [], "", 0
    while i < len(text):
        if text[i] != ",":
            current += text[i]
        elif text[i:i + 2] == ",,":
            current += ","
            i += 1
        else:
            parts.append(current)
            current = ""
        i += 1
    parts.append(current)
    return [tuple(p.split("=", 1)) if "=" in p else (p, None) for p in parts]
