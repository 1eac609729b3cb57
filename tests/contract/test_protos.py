"""Rules every proto keeps: fresh generated code, a comment for everything, requests shaped alike, a policy for every method."""

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc_tools
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
GENERATED = ROOT / "metarec" / "v1"
# Field numbers of descriptor.proto, which the paths of source code info are made of.
MESSAGE, ENUM, SERVICE = 4, 5, 6
FIELD, NESTED, NESTED_ENUM, VALUE, METHOD = 2, 3, 4, 2, 2


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    """The protos with their comments."""
    out = tmp_path_factory.mktemp("protos") / "set"
    include = Path(grpc_tools.__file__).parent / "_proto"
    names = [str(path.relative_to(PROTOS)) for path in sorted(PROTOS.rglob("*.proto"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{include}", "--include_source_info"]
    subprocess.run([*command, f"--descriptor_set_out={out}", *names], check=True)
    found = FileDescriptorSet()
    found.ParseFromString(out.read_bytes())
    return list(found.file)


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    generate = runpy.run_path(str(ROOT / "scripts" / "generate_protos.py"))["generate"]
    (tmp_path / "metarec" / "v1").mkdir(parents=True)
    generate(tmp_path)
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "metarec" / "v1").iterdir()}
    kept = {path.name: path.read_bytes() for path in GENERATED.iterdir() if path.is_file()}
    assert set(kept) == set(fresh)
    stale = sorted(name for name in fresh if fresh[name] != kept[name])
    assert not stale, "run `make protos`"


def elements(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every element of a file with its path."""
    for number, message in enumerate(file.message_type):
        yield from message_elements(message, (MESSAGE, number))
    for number, enum in enumerate(file.enum_type):
        yield enum.name, (ENUM, number)
        yield from ((f"{enum.name}.{value.name}", (ENUM, number, VALUE, n)) for n, value in enumerate(enum.value))
    for number, service in enumerate(file.service):
        yield service.name, (SERVICE, number)
        yield from ((f"{service.name}.{method.name}", (SERVICE, number, METHOD, n)) for n, method in enumerate(service.method))


def message_elements(message: DescriptorProto, path: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield message.name, path
    yield from ((f"{message.name}.{field.name}", (*path, FIELD, n)) for n, field in enumerate(message.field))
    for number, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from message_elements(nested, (*path, NESTED, number))
    assert not message.enum_type, f"{message.name}: enums stand at the top level"


def test_every_element_is_commented_with_a_sentence(files: list[FileDescriptorProto]) -> None:
    for file in files:
        comments = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
        for name, path in elements(file):
            comment = comments.get(path, "")
            assert comment.endswith("."), f"{file.name}: {name} needs a comment that is a sentence"


def test_the_package_is_the_directory(files: list[FileDescriptorProto]) -> None:
    for file in files:
        assert file.syntax == "proto3"
        assert Path(file.name).parent == Path(*file.package.split("."))


def test_every_method_has_a_request_of_its_name(files: list[FileDescriptorProto]) -> None:
    for file in files:
        for service in file.service:
            for method in service.method:
                # ExplainScore and Explain answer alike; the shared requests say so in their comments.
                assert method.input_type == f".metarec.v1.{method.name}Request", method.name
                assert not method.client_streaming
                assert not method.server_streaming


def messages(files: list[FileDescriptorProto]) -> dict[str, DescriptorProto]:
    return {message.name: message for file in files for message in file.message_type}


def methods(files: list[FileDescriptorProto]) -> Iterator[tuple[str, Any]]:
    for file in files:
        for service in file.service:
            yield from ((f"{file.package}.{service.name}", method) for method in service.method)


def test_lists_are_paged(files: list[FileDescriptorProto]) -> None:
    known = messages(files)
    lists = [method for _, method in methods(files) if method.name.startswith("List")]
    assert len(lists) >= 4
    for method in lists:
        request, response = known[f"{method.name}Request"], known[f"{method.name}Response"]
        assert {"page_size", "page_token"} <= {field.name for field in request.field}, method.name
        first, second, *_ = response.field
        assert first.label == first.LABEL_REPEATED, f"{response.name}: the items come first"
        assert (second.name, second.type) == ("next_page_token", second.TYPE_STRING), response.name


def test_gets_return_the_resource_itself(files: list[FileDescriptorProto]) -> None:
    for _, method in methods(files):
        if method.name.startswith("Get"):
            assert method.output_type == f".metarec.v1.{method.name.removeprefix('Get')}"


def test_writes_of_several_things_carry_a_request_id(files: list[FileDescriptorProto]) -> None:
    known = messages(files)
    for name in ("RecordInteractions", "UpsertItems", "UpsertUsers", "CreateTrainingJob"):
        assert known[f"{name}Request"].field[0].name == "request_id"


def test_enums_begin_with_unspecified(files: list[FileDescriptorProto]) -> None:
    for file in files:
        for enum in file.enum_type:
            prefix = "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in enum.name).lstrip("_")
            assert enum.value[0].name == f"{prefix}_UNSPECIFIED"
            assert all(value.name.startswith(f"{prefix}_") for value in enum.value)


RETRIED_WRITES = {"RecordInteractions", "UpsertItems", "UpsertUsers", "PromoteCheckpoint"}
"""Doing these twice is doing them once."""


def test_the_policy_names_every_method_once_and_retries_only_what_is_safe(files: list[FileDescriptorProto]) -> None:
    config = json.loads((PROTOS / "metarec" / "v1" / "service_config.json").read_text())
    named = [(name["service"], name["method"]) for entry in config["methodConfig"] for name in entry["name"]]
    assert len(named) == len(set(named))
    assert set(named) == {(service, method.name) for service, method in methods(files)}
    for entry in config["methodConfig"]:
        assert float(entry["timeout"].removesuffix("s")) > 0
        for name in entry["name"]:
            reads = name["method"].startswith(
                ("Get", "List", "Recommend", "Explain", "Retrieve", "Rank", "AdaptTask", "Infer", "Preview")
            )
            assert ("retryPolicy" in entry) == (reads or name["method"] in RETRIED_WRITES), name
        if "retryPolicy" in entry:
            assert entry["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
            assert 2 <= entry["retryPolicy"]["maxAttempts"] <= 5
