"""Between types and messages nothing is lost, and what does not fit is refused with the field's name."""

from uuid import uuid4

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from netmgr.contract import types as t
from netmgr.contract.codec import (
    MESSAGES,
    ContractError,
    decode,
    decode_object,
    decode_ref,
    encode,
    encode_object,
    encode_ref,
)
from netmgr.contract.proto import objects_pb2, sync_pb2
from tests.support.contract_values import bodies, u64, values


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_value_survives_the_wire(kind: type, data: st.DataObject) -> None:
    value = data.draw(values(kind))
    wire = encode(value).SerializeToString()
    assert decode(kind, MESSAGES[kind].FromString(wire)) == value


@settings(max_examples=100, deadline=None)
@given(body=bodies, version=u64)
def test_object_survives_the_wire_and_names_itself(body: t.Constructs, version: int) -> None:
    item = t.Object(version=version, body=body)
    assert decode_object(objects_pb2.Object.FromString(encode_object(item).SerializeToString())) == item
    assert decode_ref(encode_ref(t.ref_of(item))) == t.ref_of(item)


@settings(max_examples=200, deadline=None)
@given(wire=st.binary(max_size=60), kind=st.sampled_from(list(MESSAGES)))
def test_any_bytes_decode_to_a_value_or_are_refused(wire: bytes, kind: type) -> None:
    message = parsed(MESSAGES[kind], wire)
    if message is None:
        return
    refusal = ""
    try:
        value = decode(kind, message)
    except ContractError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith(f"{kind.__name__}.")
    else:
        assert decode(kind, encode(value)) == value


def parsed(kind: type[Message], wire: bytes) -> Message | None:
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(wire)
    except (DecodeError, UnicodeDecodeError):
        return None


UUID_TEXT = str(uuid4())


@pytest.mark.parametrize(
    ("kind", "message", "names"),
    [
        (t.TransportZone, objects_pb2.TransportZone(uuid="", kind="overlay"), "TransportZone.uuid"),
        (t.TransportZone, objects_pb2.TransportZone(uuid=UUID_TEXT, kind="plane"), "TransportZone.kind"),
        (t.TransportZone, objects_pb2.TransportZone(uuid=UUID_TEXT), "TransportZone.kind"),
        (t.TransportZone, objects_pb2.TransportZone(uuid=UUID_TEXT.upper(), kind="vlan"), "TransportZone.uuid"),
        (t.TransportZone, objects_pb2.TransportZone(uuid=UUID_TEXT.replace("-", ""), kind="vlan"), "uuid"),
        (t.LogicalPort, objects_pb2.LogicalPort(uuid=UUID_TEXT, network_uuid="x"), "LogicalPort.network_uuid"),
        (t.Ref, objects_pb2.ObjectRef(kind="planet", uuid=UUID_TEXT), "Ref.kind"),
        (t.Claim, sync_pb2.Claim(vif_uuid=UUID_TEXT, intent="borrow"), "Claim.intent"),
        (
            t.HostReport,
            sync_pb2.HostReport(vifs=[objects_pb2.VifStatus(vif_uuid=UUID_TEXT, state="glowing")]),
            "VifStatus.state",
        ),
    ],
)
def test_malformed_message_is_refused_with_the_name_of_its_field(kind: type, message: Message, names: str) -> None:
    with pytest.raises(ContractError, match=names):
        decode(kind, message)


def test_object_without_a_known_body_is_refused() -> None:
    with pytest.raises(ContractError, match="upgrade"):
        decode_object(objects_pb2.Object(version=1))


def test_absent_uuid_travels_as_the_empty_string() -> None:
    location = t.Location(port_uuid=uuid4(), network_uuid=uuid4())
    assert encode(location).holder_host == ""
    assert decode(t.Location, encode(location)).holder_host is None
