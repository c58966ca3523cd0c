from netmgr.contract.proto import objects_pb2 as _objects_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HostMessage(_message.Message):
    __slots__ = ("hello", "subscribe", "ack", "claim", "activated", "release", "report", "learned", "trace_answer", "retire", "tickets", "claims")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    ACTIVATED_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    LEARNED_FIELD_NUMBER: _ClassVar[int]
    TRACE_ANSWER_FIELD_NUMBER: _ClassVar[int]
    RETIRE_FIELD_NUMBER: _ClassVar[int]
    TICKETS_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    subscribe: Subscribe
    ack: Ack
    claim: Claim
    activated: Activated
    release: Release
    report: HostReport
    learned: _objects_pb2.Learned
    trace_answer: TraceAnswer
    retire: Retire
    tickets: Tickets
    claims: Claims
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., subscribe: _Optional[_Union[Subscribe, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., claim: _Optional[_Union[Claim, _Mapping]] = ..., activated: _Optional[_Union[Activated, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., report: _Optional[_Union[HostReport, _Mapping]] = ..., learned: _Optional[_Union[_objects_pb2.Learned, _Mapping]] = ..., trace_answer: _Optional[_Union[TraceAnswer, _Mapping]] = ..., retire: _Optional[_Union[Retire, _Mapping]] = ..., tickets: _Optional[_Union[Tickets, _Mapping]] = ..., claims: _Optional[_Union[Claims, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("host_uuid", "boot_id", "agent_version", "store_id", "have", "network_uuids", "view_address", "reads")
    HOST_UUID_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_UUIDS_FIELD_NUMBER: _ClassVar[int]
    VIEW_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    host_uuid: str
    boot_id: str
    agent_version: str
    store_id: str
    have: _containers.RepeatedCompositeFieldContainer[_objects_pb2.ObjectRef]
    network_uuids: _containers.RepeatedScalarFieldContainer[str]
    view_address: str
    reads: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, host_uuid: _Optional[str] = ..., boot_id: _Optional[str] = ..., agent_version: _Optional[str] = ..., store_id: _Optional[str] = ..., have: _Optional[_Iterable[_Union[_objects_pb2.ObjectRef, _Mapping]]] = ..., network_uuids: _Optional[_Iterable[str]] = ..., view_address: _Optional[str] = ..., reads: _Optional[_Iterable[str]] = ...) -> None: ...

class Subscribe(_message.Message):
    __slots__ = ("network_uuids",)
    NETWORK_UUIDS_FIELD_NUMBER: _ClassVar[int]
    network_uuids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, network_uuids: _Optional[_Iterable[str]] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("object", "reason")
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    object: _objects_pb2.ObjectRef
    reason: str
    def __init__(self, object: _Optional[_Union[_objects_pb2.ObjectRef, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("revision", "rejections")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    rejections: _containers.RepeatedCompositeFieldContainer[Rejection]
    def __init__(self, revision: _Optional[int] = ..., rejections: _Optional[_Iterable[_Union[Rejection, _Mapping]]] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("request_id", "vif_uuid", "network_uuid", "mac", "vm_uuid", "vm_name", "intent")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VIF_UUID_FIELD_NUMBER: _ClassVar[int]
    NETWORK_UUID_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    VM_UUID_FIELD_NUMBER: _ClassVar[int]
    VM_NAME_FIELD_NUMBER: _ClassVar[int]
    INTENT_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    vif_uuid: str
    network_uuid: str
    mac: str
    vm_uuid: str
    vm_name: str
    intent: str
    def __init__(self, request_id: _Optional[int] = ..., vif_uuid: _Optional[str] = ..., network_uuid: _Optional[str] = ..., mac: _Optional[str] = ..., vm_uuid: _Optional[str] = ..., vm_name: _Optional[str] = ..., intent: _Optional[str] = ...) -> None: ...

class Claims(_message.Message):
    __slots__ = ("claims",)
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    claims: _containers.RepeatedCompositeFieldContainer[Claim]
    def __init__(self, claims: _Optional[_Iterable[_Union[Claim, _Mapping]]] = ...) -> None: ...

class Activated(_message.Message):
    __slots__ = ("port_uuid", "version")
    PORT_UUID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    port_uuid: str
    version: int
    def __init__(self, port_uuid: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("port_uuid", "version", "why")
    PORT_UUID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    port_uuid: str
    version: int
    why: str
    def __init__(self, port_uuid: _Optional[str] = ..., version: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class Retire(_message.Message):
    __slots__ = ("port_uuid", "version")
    PORT_UUID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    port_uuid: str
    version: int
    def __init__(self, port_uuid: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class HostReport(_message.Message):
    __slots__ = ("pnics", "switches", "networks", "vifs", "repairs", "repairs_total")
    PNICS_FIELD_NUMBER: _ClassVar[int]
    SWITCHES_FIELD_NUMBER: _ClassVar[int]
    NETWORKS_FIELD_NUMBER: _ClassVar[int]
    VIFS_FIELD_NUMBER: _ClassVar[int]
    REPAIRS_FIELD_NUMBER: _ClassVar[int]
    REPAIRS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    pnics: _containers.RepeatedCompositeFieldContainer[_objects_pb2.Pnic]
    switches: _containers.RepeatedCompositeFieldContainer[_objects_pb2.SwitchStatus]
    networks: _containers.RepeatedCompositeFieldContainer[_objects_pb2.NetworkStatus]
    vifs: _containers.RepeatedCompositeFieldContainer[_objects_pb2.VifStatus]
    repairs: _containers.RepeatedCompositeFieldContainer[Repair]
    repairs_total: int
    def __init__(self, pnics: _Optional[_Iterable[_Union[_objects_pb2.Pnic, _Mapping]]] = ..., switches: _Optional[_Iterable[_Union[_objects_pb2.SwitchStatus, _Mapping]]] = ..., networks: _Optional[_Iterable[_Union[_objects_pb2.NetworkStatus, _Mapping]]] = ..., vifs: _Optional[_Iterable[_Union[_objects_pb2.VifStatus, _Mapping]]] = ..., repairs: _Optional[_Iterable[_Union[Repair, _Mapping]]] = ..., repairs_total: _Optional[int] = ...) -> None: ...

class Repair(_message.Message):
    __slots__ = ("what", "at_unix")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_FIELD_NUMBER: _ClassVar[int]
    what: str
    at_unix: int
    def __init__(self, what: _Optional[str] = ..., at_unix: _Optional[int] = ...) -> None: ...

class ManagerMessage(_message.Message):
    __slots__ = ("welcome", "update", "answer", "try_again", "trace", "tickets", "answers")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    TRY_AGAIN_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    TICKETS_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    update: Update
    answer: ClaimAnswer
    try_again: TryAgain
    trace: TraceQuestion
    tickets: Tickets
    answers: ClaimAnswers
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., update: _Optional[_Union[Update, _Mapping]] = ..., answer: _Optional[_Union[ClaimAnswer, _Mapping]] = ..., try_again: _Optional[_Union[TryAgain, _Mapping]] = ..., trace: _Optional[_Union[TraceQuestion, _Mapping]] = ..., tickets: _Optional[_Union[Tickets, _Mapping]] = ..., answers: _Optional[_Union[ClaimAnswers, _Mapping]] = ...) -> None: ...

class Ticket(_message.Message):
    __slots__ = ("protocol", "source", "destination", "source_port", "destination_port", "outbound")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PORT_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_PORT_FIELD_NUMBER: _ClassVar[int]
    OUTBOUND_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    source: str
    destination: str
    source_port: int
    destination_port: int
    outbound: bool
    def __init__(self, protocol: _Optional[int] = ..., source: _Optional[str] = ..., destination: _Optional[str] = ..., source_port: _Optional[int] = ..., destination_port: _Optional[int] = ..., outbound: _Optional[bool] = ...) -> None: ...

class Tickets(_message.Message):
    __slots__ = ("port_uuid", "tickets")
    PORT_UUID_FIELD_NUMBER: _ClassVar[int]
    TICKETS_FIELD_NUMBER: _ClassVar[int]
    port_uuid: str
    tickets: _containers.RepeatedCompositeFieldContainer[Ticket]
    def __init__(self, port_uuid: _Optional[str] = ..., tickets: _Optional[_Iterable[_Union[Ticket, _Mapping]]] = ...) -> None: ...

class TryAgain(_message.Message):
    __slots__ = ("vif_uuids",)
    VIF_UUIDS_FIELD_NUMBER: _ClassVar[int]
    vif_uuids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, vif_uuids: _Optional[_Iterable[str]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("store_id", "revision", "claims_max")
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_MAX_FIELD_NUMBER: _ClassVar[int]
    store_id: str
    revision: int
    claims_max: int
    def __init__(self, store_id: _Optional[str] = ..., revision: _Optional[int] = ..., claims_max: _Optional[int] = ...) -> None: ...

class Update(_message.Message):
    __slots__ = ("revision", "upserts", "removals", "last", "initial")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    UPSERTS_FIELD_NUMBER: _ClassVar[int]
    REMOVALS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    revision: int
    upserts: _containers.RepeatedCompositeFieldContainer[_objects_pb2.Object]
    removals: _containers.RepeatedCompositeFieldContainer[_objects_pb2.ObjectRef]
    last: bool
    initial: bool
    def __init__(self, revision: _Optional[int] = ..., upserts: _Optional[_Iterable[_Union[_objects_pb2.Object, _Mapping]]] = ..., removals: _Optional[_Iterable[_Union[_objects_pb2.ObjectRef, _Mapping]]] = ..., last: _Optional[bool] = ..., initial: _Optional[bool] = ...) -> None: ...

class ClaimAnswer(_message.Message):
    __slots__ = ("request_id", "refusal", "port", "location", "dark")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    DARK_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    refusal: str
    port: _objects_pb2.Object
    location: _objects_pb2.Object
    dark: bool
    def __init__(self, request_id: _Optional[int] = ..., refusal: _Optional[str] = ..., port: _Optional[_Union[_objects_pb2.Object, _Mapping]] = ..., location: _Optional[_Union[_objects_pb2.Object, _Mapping]] = ..., dark: _Optional[bool] = ...) -> None: ...

class ClaimAnswers(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[ClaimAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[ClaimAnswer, _Mapping]]] = ...) -> None: ...

class TraceFrame(_message.Message):
    __slots__ = ("eth_src", "eth_dst", "protocol", "ip_src", "ip_dst", "source_port", "destination_port")
    ETH_SRC_FIELD_NUMBER: _ClassVar[int]
    ETH_DST_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    IP_SRC_FIELD_NUMBER: _ClassVar[int]
    IP_DST_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PORT_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_PORT_FIELD_NUMBER: _ClassVar[int]
    eth_src: str
    eth_dst: str
    protocol: str
    ip_src: str
    ip_dst: str
    source_port: int
    destination_port: int
    def __init__(self, eth_src: _Optional[str] = ..., eth_dst: _Optional[str] = ..., protocol: _Optional[str] = ..., ip_src: _Optional[str] = ..., ip_dst: _Optional[str] = ..., source_port: _Optional[int] = ..., destination_port: _Optional[int] = ...) -> None: ...

class TraceQuestion(_message.Message):
    __slots__ = ("request_id", "network_uuid", "vif_uuid", "from_vtep", "frame")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NETWORK_UUID_FIELD_NUMBER: _ClassVar[int]
    VIF_UUID_FIELD_NUMBER: _ClassVar[int]
    FROM_VTEP_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    network_uuid: str
    vif_uuid: str
    from_vtep: str
    frame: TraceFrame
    def __init__(self, request_id: _Optional[int] = ..., network_uuid: _Optional[str] = ..., vif_uuid: _Optional[str] = ..., from_vtep: _Optional[str] = ..., frame: _Optional[_Union[TraceFrame, _Mapping]] = ...) -> None: ...

class TraceStep(_message.Message):
    __slots__ = ("table", "priority", "match", "actions", "depth")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    table: str
    priority: int
    match: str
    actions: _containers.RepeatedScalarFieldContainer[str]
    depth: int
    def __init__(self, table: _Optional[str] = ..., priority: _Optional[int] = ..., match: _Optional[str] = ..., actions: _Optional[_Iterable[str]] = ..., depth: _Optional[int] = ...) -> None: ...

class TraceEnd(_message.Message):
    __slots__ = ("kind", "vif_uuid", "ovs_port", "vtep", "table", "reason")
    KIND_FIELD_NUMBER: _ClassVar[int]
    VIF_UUID_FIELD_NUMBER: _ClassVar[int]
    OVS_PORT_FIELD_NUMBER: _ClassVar[int]
    VTEP_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    vif_uuid: str
    ovs_port: str
    vtep: str
    table: str
    reason: str
    def __init__(self, kind: _Optional[str] = ..., vif_uuid: _Optional[str] = ..., ovs_port: _Optional[str] = ..., vtep: _Optional[str] = ..., table: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class TraceAnswer(_message.Message):
    __slots__ = ("request_id", "refusal", "steps", "ends")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    refusal: str
    steps: _containers.RepeatedCompositeFieldContainer[TraceStep]
    ends: _containers.RepeatedCompositeFieldContainer[TraceEnd]
    def __init__(self, request_id: _Optional[int] = ..., refusal: _Optional[str] = ..., steps: _Optional[_Iterable[_Union[TraceStep, _Mapping]]] = ..., ends: _Optional[_Iterable[_Union[TraceEnd, _Mapping]]] = ...) -> None: ...
