"""The committed generated code: usable with the protobuf that is installed, and equal to the .proto files beside it."""

import re
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal import api_implementation

from serving import protos
from serving.protos.jetstream.core.proto import jetstream_pb2, multi_lora_decoding_pb2
from serving.protos.s2l.v1 import info_pb2, streaming_pb2

ROOT = Path(protos.__file__).parent
FILES = [m.DESCRIPTOR for m in (streaming_pb2, info_pb2, jetstream_pb2, multi_lora_decoding_pb2)]
_LINE = re.compile(r"^\s*(?:repeated |optional )?(map<[^>]+>|[\w.]+) (\w+) = (\d+);")


def _declared(file: FileDescriptor) -> list[tuple[str, str, int]]:
    """`(message, field, number)` in the order of the text."""
    found: list[tuple[str, str, int]] = []
    messages: list[str] = []
    for raw in (ROOT / file.name).read_text().splitlines():
        line = raw.partition("//")[0].strip()
        if line.startswith(("message ", "oneof ", "service ")):
            kind, name = line.split()[:2]
            if not line.endswith("}"):
                messages.append(name if kind == "message" else "")
        elif match := _LINE.match(line):
            found.append((".".join(filter(None, messages)), match[2], int(match[3])))
        elif line == "}":
            messages.pop()
    return found


def _generated(file: FileDescriptor) -> list[tuple[str, str, int]]:
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    found: list[tuple[str, str, int]] = []

    def walk(message: descriptor_pb2.DescriptorProto, prefix: str) -> None:
        name = f"{prefix}{message.name}"
        if message.options.map_entry:
            return
        found.extend((name, field.name, field.number) for field in message.field)
        for nested in message.nested_type:
            walk(nested, f"{name}.")

    for message in proto.message_type:
        walk(message, "")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_generated_code_equals_the_text(file: FileDescriptor) -> None:
    declared = _declared(file)
    assert declared
    assert sorted(declared) == sorted(_generated(file))


def test_file_names_are_upstreams() -> None:
    assert [file.name for file in FILES] == [
        "s2l/v1/streaming.proto",
        "s2l/v1/info.proto",
        "jetstream/core/proto/jetstream.proto",
        "jetstream/core/proto/multi_lora_decoding.proto",
    ]
    assert [list(file.services_by_name) for file in FILES] == [["StreamingContext"], ["Info"], ["Orchestrator"], ["v1"]]
    assert FILES[3].package == ""


def test_upstreams_module_can_be_loaded_into_the_same_process() -> None:
    """A second registration of the same bytes under the same name is what importing upstream's module does."""
    pool = descriptor_pool.Default()
    for file in FILES[2:]:
        assert pool.AddSerializedFile(file.serialized_pb).name == file.name


def test_jetstreams_wire_bytes() -> None:
    request = jetstream_pb2.DecodeRequest(
        max_tokens=3,
        text_content=jetstream_pb2.DecodeRequest.TextContent(text="A"),
        metadata=jetstream_pb2.DecodeRequest.Metadata(start_time=0.0),
        num_samples=2,
        lora_adapter_id="x",
        has_bos=True,
    )
    assert request.SerializeToString() == bytes(
        [0x20, 3, 0x2A, 3, 0x0A, 1, 65, 0x3A, 0, 0x40, 2, 0x4A, 1, 120, 0x50, 1]
    )
    sample = jetstream_pb2.DecodeResponse.StreamContent.Sample(text="a", token_ids=[1, 2])
    response = jetstream_pb2.DecodeResponse(stream_content={"samples": [sample]})
    assert response.SerializeToString() == bytes([0x1A, 9, 0x0A, 7, 0x0A, 1, 97, 0x12, 2, 1, 2])


def test_the_fast_implementation_is_in_use() -> None:
    assert api_implementation.Type() == "upb"
