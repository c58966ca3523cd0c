"""The contract keeps its promises: documented, never changed once released, generated code current, types in step."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from netmgr.contract.codec import MESSAGES
from netmgr.contract.proto import objects_pb2, opaque_view_pb2, sync_pb2

ROOT = Path(__file__).resolve().parents[3]
PROTO = ROOT / "netmgr" / "contract" / "proto"
RELEASED = ROOT / "tests" / "cases" / "contract" / "released.json"
FILES = sorted(PROTO.glob("*.proto"))
MODULES = (objects_pb2, opaque_view_pb2, sync_pb2)

FIELD = re.compile(r"^\s*(repeated\s+|optional\s+)?(map<[^>]+>|[\w.]+)\s+(\w+)\s*=\s*(\d+);")


def described(text: str) -> Iterator[tuple[int, str, str, str]]:
    """Each message, field, service and rpc of a .proto: line number, sort, name, the comment right above it."""
    comment: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.strip()
        if bare.startswith("//"):
            comment.append(bare.removeprefix("//").strip())
            continue
        opened = re.match(r"(message|service|rpc|oneof)\s+(\w+)", bare)
        if opened:
            yield number, opened[1], opened[2], " ".join(comment)
        elif found := FIELD.match(line):
            yield number, "field", found[3], " ".join(comment)
        comment = []


def layout() -> dict[str, dict[str, list[object]]]:
    """Message → field → [number, type, whether it repeats], of all messages."""
    return {m.full_name: {f.name: shape(f) for f in m.fields} for m in messages()}


def messages() -> Iterator[Descriptor]:
    for module in MODULES:
        yield from module.DESCRIPTOR.message_types_by_name.values()


def as_text(found: dict[str, dict[str, list[object]]]) -> str:
    """The layout as released.json keeps it: a line a field."""
    lines = [
        f'  "{message}": {{\n' + ",\n".join(f"    {json.dumps(n)}: {json.dumps(s)}" for n, s in names.items()) + "\n  }"
        for message, names in found.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def shape(field: FieldDescriptor) -> list[object]:
    names = {v: k.removeprefix("TYPE_").lower() for k, v in vars(FieldDescriptor).items() if k.startswith("TYPE_")}
    of = field.message_type.full_name if field.message_type else names[field.type]
    return [field.number, of, "repeated" if field.is_repeated else "single"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_message_and_field_is_documented_and_every_field_names_its_author(path: Path) -> None:
    found = list(described(path.read_text()))
    assert found
    bare = [f"{path.name}:{line} {sort} {name}" for line, sort, name, comment in found if not comment]
    assert not bare, f"without a comment: {bare}"
    orphans = [
        f"{path.name}:{line} {name}"
        for line, sort, name, comment in found
        if sort in ("field", "oneof") and not re.search(r"Author: \S", comment)
    ]
    assert not orphans, f"without an author: {orphans}"


def test_the_search_for_undocumented_fields_finds_one() -> None:
    text = "// A.\nmessage M {\n  // Fine. Author: host.\n  string a = 1;\n  string b = 2;\n}\n"
    assert [(sort, name, comment) for _, sort, name, comment in described(text)] == [
        ("message", "M", "A."),
        ("field", "a", "Fine. Author: host."),
        ("field", "b", ""),
    ]


def test_the_search_sees_every_field_of_the_descriptors() -> None:
    seen = sum(sort == "field" for path in FILES for _, sort, _, _ in described(path.read_text()))
    assert seen == sum(len(fields_of) for fields_of in layout().values())


def test_no_released_field_is_changed_or_removed() -> None:
    broken = differences(released=json.loads(RELEASED.read_text()), now=layout())
    assert not broken, f"released fields are for ever, add new ones instead: {broken}"


def test_every_field_is_in_the_snapshot() -> None:
    """A new field is released with the commit that adds it: write the printed layout into released.json."""
    assert json.loads(RELEASED.read_text()) == layout(), as_text(layout())


@pytest.mark.parametrize(
    ("now", "broken"),
    [
        ({"M": {"a": [1, "string", "single"]}}, []),
        ({"M": {"a": [1, "string", "single"], "b": [2, "bool", "single"]}, "N": {}}, []),
        ({"M": {"a": [2, "string", "single"]}}, ["M.a"]),
        ({"M": {"a": [1, "uint64", "single"]}}, ["M.a"]),
        ({"M": {"a": [1, "string", "repeated"]}}, ["M.a"]),
        ({"M": {}}, ["M.a"]),
        ({}, ["M.a"]),
    ],
)
def test_the_comparison_allows_additions_only(now: dict[str, dict[str, list[object]]], broken: list[str]) -> None:
    found = differences(released={"M": {"a": [1, "string", "single"]}}, now=now)
    assert [line.split(":")[0] for line in found] == broken


def differences(*, released: dict[str, dict[str, list[object]]], now: dict[str, dict[str, list[object]]]) -> list[str]:
    return [
        f"{message}.{name}: was {was}, is {now.get(message, {}).get(name)}"
        for message, names in released.items()
        for name, was in names.items()
        if now.get(message, {}).get(name) != was
    ]


def test_generated_code_is_current(tmp_path: Path) -> None:
    relative = [str(path.relative_to(ROOT)) for path in FILES]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
    outs = [f"--{out}={tmp_path}" for out in ("python_out", "pyi_out", "grpc_python_out")]
    subprocess.run([*protoc, *outs, *relative], cwd=ROOT, check=True)
    for made in sorted((tmp_path / "netmgr/contract/proto").iterdir()):
        kept = PROTO / made.name
        if not kept.exists():  # protoc makes an empty service file for a .proto without services
            assert "Servicer" not in made.read_text(), f"{made.name} is not in the repository"
        else:
            assert kept.read_text() == made.read_text(), f"{made.name}: run make proto"


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_type_and_message_have_the_same_fields(kind: type) -> None:
    assert {f.name for f in fields(kind)} == {f.name for f in MESSAGES[kind].DESCRIPTOR.fields}
