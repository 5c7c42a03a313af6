#!/usr/bin/env python3
"""Lints proto/ as buf's STANDARD and COMMENTS categories do, and proves that no released field, value or method is broken.

    scripts/check_proto.py             lints, and compares with proto/released.json
    scripts/check_proto.py --release   after a release, or to take in what is new: writes proto/released.json anew

What is in proto/released.json stays readable on the wire: a number keeps its name, type, cardinality and oneof; what goes leaves its number
and name reserved. What is new may be added at any time. Prints every fault. Needs protoc and Python 3.9; no network.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
RELEASED = PROTO / "released.json"
faults: list[str] = []

TYPES = {
    1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 6: "fixed64", 7: "fixed32", 8: "bool", 9: "string", 10: "group",
    11: "message", 12: "bytes", 13: "uint32", 14: "enum", 15: "sfixed32", 16: "sfixed64", 17: "sint32", 18: "sint64",
}
LABELS = {1: "optional", 2: "required", 3: "repeated"}


# descriptor.proto, read by hand: no library is needed for so little.
def fields(data: bytes) -> dict[int, list]:
    """An encoded message as field number -> values."""
    out: dict[int, list] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        number, wire = key >> 3, key & 7
        if wire == 0:
            value: object = varint()
        elif wire == 1:
            value, at = data[at:at + 8], at + 8
        elif wire == 2:
            length = varint()
            value, at = data[at:at + length], at + length
        elif wire == 5:
            value, at = data[at:at + 4], at + 4
        else:
            raise ValueError(f"wire type {wire}")
        out.setdefault(number, []).append(value)
    return out


def text(message: dict[int, list], number: int) -> str:
    return message[number][0].decode() if number in message else ""


def integer(message: dict[int, list], number: int) -> int:
    return message[number][0] if number in message else 0


def many(message: dict[int, list], number: int) -> list[dict[int, list]]:
    return [fields(one) for one in message.get(number, [])]


def packed(values: list) -> list[int]:
    out: list[int] = []
    for value in values:
        if isinstance(value, int):
            out.append(value)
            continue
        number = shift = 0
        for byte in value:
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                out.append(number)
                number = shift = 0
    return out


class File:
    def __init__(self, raw: dict[int, list]):
        self.raw = raw
        self.name, self.package = text(raw, 1), text(raw, 2)
        self.imports = [one.decode() for one in raw.get(3, [])]
        self.public = packed(raw.get(10, []))
        self.commented = {
            tuple(packed(place.get(1, []))) for info in many(raw, 9) for place in many(info, 1) if text(place, 3).strip()
        }

    def fault(self, what: str) -> None:
        faults.append(f"{self.name}: {what}")

    def comment(self, path: tuple[int, ...], what: str) -> None:
        if path not in self.commented:
            self.fault(f"{what} has no comment: say what it is for")


def snake(name: str) -> bool:
    return re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) is not None


def pascal(name: str) -> bool:
    return re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) is not None


def upper(name: str) -> str:
    # HTTPThing -> HTTP_THING, NodeRole -> NODE_ROLE
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).upper()


def lint_enum(file: File, enum: dict[int, list], path: tuple[int, ...]) -> None:
    name = text(enum, 1)
    file.comment(path, f"enum {name}")
    if not pascal(name):
        file.fault(f"enum {name} is not PascalCase")
    for place, value in enumerate(many(enum, 2)):
        one, number = text(value, 1), integer(value, 2)
        if not one.startswith(upper(name) + "_"):
            file.fault(f"value {one} of enum {name} must begin with {upper(name)}_")
        if one != one.upper():
            file.fault(f"value {one} of enum {name} is not UPPER_SNAKE_CASE")
        if place == 0 and (number != 0 or one != upper(name) + "_UNSPECIFIED"):
            file.fault(f"enum {name} must begin with {upper(name)}_UNSPECIFIED = 0")


def lint_message(file: File, message: dict[int, list], path: tuple[int, ...], outer: str, used: set[str]) -> None:
    name = outer + text(message, 1)
    options = many(message, 7)
    if any(integer(option, 7) for option in options):  # a map's entry
        for field in many(message, 2):
            used.add(text(field, 6))
        return
    file.comment(path, f"message {name}")
    if not pascal(text(message, 1)):
        file.fault(f"message {name} is not PascalCase")
    for field in many(message, 2):
        used.add(text(field, 6))
        if not snake(text(field, 1)):
            file.fault(f"field {name}.{text(field, 1)} is not lower_snake_case")
        if integer(field, 4) == 2 or integer(field, 5) == 10:
            file.fault(f"field {name}.{text(field, 1)} is required, or a group")
    for oneof in many(message, 8):
        if not snake(text(oneof, 1).lstrip("_")):
            file.fault(f"oneof {name}.{text(oneof, 1)} is not lower_snake_case")
    for place, nested in enumerate(many(message, 3)):
        lint_message(file, nested, (*path, 3, place), name + ".", used)
    for place, enum in enumerate(many(message, 4)):
        lint_enum(file, enum, (*path, 4, place))


def lint_service(file: File, service: dict[int, list], path: tuple[int, ...], used: set[str], taken: dict[str, str]) -> None:
    name = text(service, 1)
    file.comment(path, f"service {name}")
    if not pascal(name) or not name.endswith("Service"):
        file.fault(f"service {name} must be PascalCase and end in Service")
    for place, method in enumerate(many(service, 2)):
        rpc = text(method, 1)
        file.comment((*path, 2, place), f"rpc {name}.{rpc}")
        if not pascal(rpc):
            file.fault(f"rpc {name}.{rpc} is not PascalCase")
        for kind, full in (("Request", text(method, 2)), ("Response", text(method, 3))):
            used.add(full)
            short = full.rsplit(".", 1)[-1]
            if short not in (f"{rpc}{kind}", f"{name}{rpc}{kind}"):
                file.fault(f"rpc {name}.{rpc}: its {kind.lower()} must be {rpc}{kind}, not {short}")
            if full in taken:
                file.fault(f"rpc {name}.{rpc}: {short} is also of {taken[full]}: each method has messages of its own")
            taken[full] = f"{name}.{rpc}"


def lint(files: list[File], all_types: dict[str, str]) -> None:
    taken: dict[str, str] = {}
    for file in files:
        path = Path(file.name)
        if text(file.raw, 12) != "proto3":
            file.fault("is not proto3")
        if not re.fullmatch(r"postern(\.[a-z][a-z0-9_]*)+\.v[1-9][0-9]*", file.package):
            file.fault(f"package {file.package} must be postern.NAME.vN")
        if str(path.parent) != file.package.replace(".", "/"):
            file.fault(f"package {file.package} does not lie in its folder")
        if not snake(path.stem):
            file.fault("the file's name is not lower_snake_case")
        if not {(2,), (12,)} & file.commented:
            file.fault("the package has no comment: say what the file is for, above `package` or `syntax`")
        if file.public:
            file.fault("has public imports")
        used: set[str] = set()
        for place, message in enumerate(many(file.raw, 4)):
            lint_message(file, message, (4, place), "", used)
        for place, enum in enumerate(many(file.raw, 5)):
            lint_enum(file, enum, (5, place))
        for place, service in enumerate(many(file.raw, 6)):
            lint_service(file, service, (6, place), used, taken)
        needed = {all_types.get(one) for one in used}
        for imported in file.imports:
            if imported not in needed:
                file.fault(f"imports {imported} and uses nothing of it")


def types(files: list[File]) -> dict[str, str]:
    """Full name of each message and enum -> its file."""
    out: dict[str, str] = {}

    def add(message: dict[int, list], outer: str, file: str) -> None:
        name = f"{outer}.{text(message, 1)}"
        out[name] = file
        for nested in many(message, 3):
            add(nested, name, file)
        for enum in many(message, 4):
            out[f"{name}.{text(enum, 1)}"] = file

    for file in files:
        for message in many(file.raw, 4):
            add(message, f".{file.package}", file.name)
        for enum in many(file.raw, 5):
            out[f".{file.package}.{text(enum, 1)}"] = file.name
    return out


# What clients and disks rely on.
def surface(files: list[File]) -> dict:
    out: dict = {"messages": {}, "enums": {}, "services": {}}

    def reserved(raw: dict[int, list], ranges: int, names: int, last: bool) -> dict:
        spans = [[integer(one, 1), integer(one, 2) - (0 if last else 1)] for one in many(raw, ranges)]
        return {"numbers": spans, "names": sorted(one.decode() for one in raw.get(names, []))}

    def enum(raw: dict[int, list], outer: str) -> None:
        values = {str(integer(value, 2)): text(value, 1) for value in many(raw, 2)}
        out["enums"][f"{outer}.{text(raw, 1)}"] = {"values": values, "reserved": reserved(raw, 4, 5, True)}

    def message(raw: dict[int, list], outer: str) -> None:
        name = f"{outer}.{text(raw, 1)}"
        oneofs = [text(one, 1) for one in many(raw, 8)]
        known = {}
        for field in many(raw, 2):
            one = {"name": text(field, 1), "type": text(field, 6).lstrip(".") or TYPES[integer(field, 5)]}
            one["label"] = LABELS[integer(field, 4)]
            if 9 in field:
                one["oneof"] = oneofs[integer(field, 9)]
            known[str(integer(field, 3))] = one
        out["messages"][name] = {"fields": known, "reserved": reserved(raw, 9, 10, False)}
        for nested in many(raw, 3):
            message(nested, name)
        for nested in many(raw, 4):
            enum(nested, name)

    for file in files:
        for raw in many(file.raw, 4):
            message(raw, file.package)
        for raw in many(file.raw, 5):
            enum(raw, file.package)
        for service in many(file.raw, 6):
            methods = {}
            for method in many(service, 2):
                stream = [" stream" if integer(method, n) else "" for n in (5, 6)]
                methods[text(method, 1)] = f"({stream[0].strip()} {text(method, 2)}) -> ({stream[1].strip()} {text(method, 3)})"
            out["services"][f"{file.package}.{text(service, 1)}"] = methods
    return out


def is_reserved(reserved: dict, number: int, name: str) -> bool:
    return name in reserved["names"] and any(low <= number <= high for low, high in reserved["numbers"])


def compare(released: dict, now: dict) -> None:
    def broken(what: str) -> None:
        faults.append(f"breaks what is released: {what}")

    for name, message in released["messages"].items():
        current = now["messages"].get(name)
        if current is None:
            broken(f"message {name} is gone")
            continue
        for number, field in message["fields"].items():
            known = current["fields"].get(number)
            if known is None:
                if not is_reserved(current["reserved"], int(number), field["name"]):
                    broken(f"{name}.{field['name']} = {number} is gone and not reserved: reserved {number}; reserved \"{field['name']}\";")
            elif known != field:
                changed = [f"{key} {field.get(key)} -> {known.get(key)}" for key in sorted({*field, *known}) if field.get(key) != known.get(key)]
                broken(f"{name}, field {number}: {', '.join(changed)}")
        for low, high in message["reserved"]["numbers"]:
            for number in current["fields"]:
                if low <= int(number) <= high:
                    broken(f"{name}, field {number}: the number was reserved")
    for name, enum in released["enums"].items():
        current = now["enums"].get(name)
        if current is None:
            broken(f"enum {name} is gone")
            continue
        for number, value in enum["values"].items():
            known = current["values"].get(number)
            if known is None and not is_reserved(current["reserved"], int(number), value):
                broken(f"{name}.{value} = {number} is gone and not reserved")
            elif known not in (None, value):
                broken(f"{name}, value {number}: {value} -> {known}")
    for name, methods in released["services"].items():
        current = now["services"].get(name)
        if current is None:
            broken(f"service {name} is gone")
            continue
        for method, shape in methods.items():
            if method not in current:
                broken(f"rpc {name}.{method} is gone")
            elif current[method] != shape:
                broken(f"rpc {name}.{method}: {shape} -> {current[method]}")


def load() -> tuple[list[File], list[File]]:
    """Our files, and all that they import."""
    ours = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("postern/**/*.proto"))
    with tempfile.NamedTemporaryFile() as out:
        command = ["protoc", f"-I{PROTO}", "--include_imports", "--include_source_info", f"--descriptor_set_out={out.name}", *ours]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(f"check_proto: protoc failed:\n{run.stderr}")
        everything = [File(raw) for raw in many(fields(Path(out.name).read_bytes()), 1)]
    return [file for file in everything if file.name in ours], everything


def main() -> None:
    ours, everything = load()
    built = (PROTO / "build.rs").read_text()
    for file in ours:
        if f'"{file.name}"' not in built:
            file.fault("is not compiled: add it to proto/build.rs")
    lint(ours, types(everything))
    now = surface(ours)
    if sys.argv[1:] == ["--release"]:
        if faults:
            print("\n".join(faults), file=sys.stderr)
            sys.exit("check_proto: not released: mend these first")
        RELEASED.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
        print(f"check_proto: {RELEASED.relative_to(ROOT)} written")
        return
    if sys.argv[1:]:
        sys.exit(__doc__)
    compare(json.loads(RELEASED.read_text()), now)
    for fault in faults:
        print(f"check_proto: {fault}", file=sys.stderr)
    if faults:
        sys.exit(f"check_proto: {len(faults)} faults")
    print("check_proto: names, comments and imports are as they should be, and nothing released is broken")


if __name__ == "__main__":
    main()
