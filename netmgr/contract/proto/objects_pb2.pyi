from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TransportZone(_message.Message):
    __slots__ = ("uuid", "name", "kind")
    UUID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    name: str
    kind: str
    def __init__(self, uuid: _Optional[str] = ..., name: _Optional[str] = ..., kind: _Optional[str] = ...) -> None: ...

class OpaqueSwitch(_message.Message):
    __slots__ = ("uuid", "name", "zone_uuids", "pnic_globs", "mtu", "vtep_pool", "teaming", "traffic_classes")
    UUID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ZONE_UUIDS_FIELD_NUMBER: _ClassVar[int]
    PNIC_GLOBS_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    VTEP_POOL_FIELD_NUMBER: _ClassVar[int]
    TEAMING_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_CLASSES_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    name: str
    zone_uuids: _containers.RepeatedScalarFieldContainer[str]
    pnic_globs: _containers.RepeatedScalarFieldContainer[str]
    mtu: int
    vtep_pool: str
    teaming: str
    traffic_classes: TrafficClasses
    def __init__(self, uuid: _Optional[str] = ..., name: _Optional[str] = ..., zone_uuids: _Optional[_Iterable[str]] = ..., pnic_globs: _Optional[_Iterable[str]] = ..., mtu: _Optional[int] = ..., vtep_pool: _Optional[str] = ..., teaming: _Optional[str] = ..., traffic_classes: _Optional[_Union[TrafficClasses, _Mapping]] = ...) -> None: ...

class TrafficClasses(_message.Message):
    __slots__ = ("tenant_percent", "control_percent", "management_percent", "link_mbps")
    TENANT_PERCENT_FIELD_NUMBER: _ClassVar[int]
    CONTROL_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MANAGEMENT_PERCENT_FIELD_NUMBER: _ClassVar[int]
    LINK_MBPS_FIELD_NUMBER: _ClassVar[int]
    tenant_percent: int
    control_percent: int
    management_percent: int
    link_mbps: int
    def __init__(self, tenant_percent: _Optional[int] = ..., control_percent: _Optional[int] = ..., management_percent: _Optional[int] = ..., link_mbps: _Optional[int] = ...) -> None: ...

class OpaqueNetwork(_message.Message):
    __slots__ = ("uuid", "name", "type", "zone_uuid", "switch_uuid", "segment_id", "attach_mode", "mtu", "subnets")
    UUID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ZONE_UUID_FIELD_NUMBER: _ClassVar[int]
    SWITCH_UUID_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ATTACH_MODE_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    SUBNETS_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    name: str
    type: str
    zone_uuid: str
    switch_uuid: str
    segment_id: int
    attach_mode: str
    mtu: int
    subnets: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, uuid: _Optional[str] = ..., name: _Optional[str] = ..., type: _Optional[str] = ..., zone_uuid: _Optional[str] = ..., switch_uuid: _Optional[str] = ..., segment_id: _Optional[int] = ..., attach_mode: _Optional[str] = ..., mtu: _Optional[int] = ..., subnets: _Optional[_Iterable[str]] = ...) -> None: ...

class NestedMac(_message.Message):
    __slots__ = ("mac", "ips")
    MAC_FIELD_NUMBER: _ClassVar[int]
    IPS_FIELD_NUMBER: _ClassVar[int]
    mac: str
    ips: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, mac: _Optional[str] = ..., ips: _Optional[_Iterable[str]] = ...) -> None: ...

class LogicalPort(_message.Message):
    __slots__ = ("uuid", "name", "network_uuid", "vif_uuid", "mac", "ips", "admin_up", "shadow_of", "security_groups", "allow", "egress_kbps", "ingress_kbps", "nested", "parent_port", "tag")
    UUID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NETWORK_UUID_FIELD_NUMBER: _ClassVar[int]
    VIF_UUID_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    IPS_FIELD_NUMBER: _ClassVar[int]
    ADMIN_UP_FIELD_NUMBER: _ClassVar[int]
    SHADOW_OF_FIELD_NUMBER: _ClassVar[int]
    SECURITY_GROUPS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_FIELD_NUMBER: _ClassVar[int]
    EGRESS_KBPS_FIELD_NUMBER: _ClassVar[int]
    INGRESS_KBPS_FIELD_NUMBER: _ClassVar[int]
    NESTED_FIELD_NUMBER: _ClassVar[int]
    PARENT_PORT_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    name: str
    network_uuid: str
    vif_uuid: str
    mac: str
    ips: _containers.RepeatedScalarFieldContainer[str]
    admin_up: bool
    shadow_of: str
    security_groups: _containers.RepeatedScalarFieldContainer[str]
    allow: _containers.RepeatedScalarFieldContainer[str]
    egress_kbps: int
    ingress_kbps: int
    nested: _containers.RepeatedCompositeFieldContainer[NestedMac]
    parent_port: str
    tag: int
    def __init__(self, uuid: _Optional[str] = ..., name: _Optional[str] = ..., network_uuid: _Optional[str] = ..., vif_uuid: _Optional[str] = ..., mac: _Optional[str] = ..., ips: _Optional[_Iterable[str]] = ..., admin_up: _Optional[bool] = ..., shadow_of: _Optional[str] = ..., security_groups: _Optional[_Iterable[str]] = ..., allow: _Optional[_Iterable[str]] = ..., egress_kbps: _Optional[int] = ..., ingress_kbps: _Optional[int] = ..., nested: _Optional[_Iterable[_Union[NestedMac, _Mapping]]] = ..., parent_port: _Optional[str] = ..., tag: _Optional[int] = ...) -> None: ...

class SecurityRule(_message.Message):
    __slots__ = ("direction", "ethertype", "protocol", "port_min", "port_max", "icmp_type", "icmp_code", "remote_cidr", "remote_group")
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    ETHERTYPE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PORT_MIN_FIELD_NUMBER: _ClassVar[int]
    PORT_MAX_FIELD_NUMBER: _ClassVar[int]
    ICMP_TYPE_FIELD_NUMBER: _ClassVar[int]
    ICMP_CODE_FIELD_NUMBER: _ClassVar[int]
    REMOTE_CIDR_FIELD_NUMBER: _ClassVar[int]
    REMOTE_GROUP_FIELD_NUMBER: _ClassVar[int]
    direction: str
    ethertype: str
    protocol: str
    port_min: int
    port_max: int
    icmp_type: int
    icmp_code: int
    remote_cidr: str
    remote_group: str
    def __init__(self, direction: _Optional[str] = ..., ethertype: _Optional[str] = ..., protocol: _Optional[str] = ..., port_min: _Optional[int] = ..., port_max: _Optional[int] = ..., icmp_type: _Optional[int] = ..., icmp_code: _Optional[int] = ..., remote_cidr: _Optional[str] = ..., remote_group: _Optional[str] = ...) -> None: ...

class SecurityGroup(_message.Message):
    __slots__ = ("uuid", "name", "stateful", "rules", "members")
    UUID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATEFUL_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    name: str
    stateful: bool
    rules: _containers.RepeatedCompositeFieldContainer[SecurityRule]
    members: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, uuid: _Optional[str] = ..., name: _Optional[str] = ..., stateful: _Optional[bool] = ..., rules: _Optional[_Iterable[_Union[SecurityRule, _Mapping]]] = ..., members: _Optional[_Iterable[str]] = ...) -> None: ...

class Location(_message.Message):
    __slots__ = ("port_uuid", "network_uuid", "holder_host", "holder_vtep", "incoming_host", "incoming_vtep", "parked", "version", "mac")
    PORT_UUID_FIELD_NUMBER: _ClassVar[int]
    NETWORK_UUID_FIELD_NUMBER: _ClassVar[int]
    HOLDER_HOST_FIELD_NUMBER: _ClassVar[int]
    HOLDER_VTEP_FIELD_NUMBER: _ClassVar[int]
    INCOMING_HOST_FIELD_NUMBER: _ClassVar[int]
    INCOMING_VTEP_FIELD_NUMBER: _ClassVar[int]
    PARKED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    port_uuid: str
    network_uuid: str
    holder_host: str
    holder_vtep: str
    incoming_host: str
    incoming_vtep: str
    parked: bool
    version: int
    mac: str
    def __init__(self, port_uuid: _Optional[str] = ..., network_uuid: _Optional[str] = ..., holder_host: _Optional[str] = ..., holder_vtep: _Optional[str] = ..., incoming_host: _Optional[str] = ..., incoming_vtep: _Optional[str] = ..., parked: _Optional[bool] = ..., version: _Optional[int] = ..., mac: _Optional[str] = ...) -> None: ...

class Withdrawal(_message.Message):
    __slots__ = ("uuid", "network_uuid", "host_uuid", "reason", "by", "since")
    UUID_FIELD_NUMBER: _ClassVar[int]
    NETWORK_UUID_FIELD_NUMBER: _ClassVar[int]
    HOST_UUID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    network_uuid: str
    host_uuid: str
    reason: str
    by: str
    since: str
    def __init__(self, uuid: _Optional[str] = ..., network_uuid: _Optional[str] = ..., host_uuid: _Optional[str] = ..., reason: _Optional[str] = ..., by: _Optional[str] = ..., since: _Optional[str] = ...) -> None: ...

class VtepAssignment(_message.Message):
    __slots__ = ("switch_uuid", "address")
    SWITCH_UUID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    switch_uuid: str
    address: str
    def __init__(self, switch_uuid: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class HostConfig(_message.Message):
    __slots__ = ("uuid", "name", "zone_uuids", "vteps", "peers")
    UUID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ZONE_UUIDS_FIELD_NUMBER: _ClassVar[int]
    VTEPS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    name: str
    zone_uuids: _containers.RepeatedScalarFieldContainer[str]
    vteps: _containers.RepeatedCompositeFieldContainer[VtepAssignment]
    peers: _containers.RepeatedCompositeFieldContainer[TunnelPeer]
    def __init__(self, uuid: _Optional[str] = ..., name: _Optional[str] = ..., zone_uuids: _Optional[_Iterable[str]] = ..., vteps: _Optional[_Iterable[_Union[VtepAssignment, _Mapping]]] = ..., peers: _Optional[_Iterable[_Union[TunnelPeer, _Mapping]]] = ...) -> None: ...

class TunnelPeer(_message.Message):
    __slots__ = ("switch_uuid", "host_uuid", "host_name", "vtep")
    SWITCH_UUID_FIELD_NUMBER: _ClassVar[int]
    HOST_UUID_FIELD_NUMBER: _ClassVar[int]
    HOST_NAME_FIELD_NUMBER: _ClassVar[int]
    VTEP_FIELD_NUMBER: _ClassVar[int]
    switch_uuid: str
    host_uuid: str
    host_name: str
    vtep: str
    def __init__(self, switch_uuid: _Optional[str] = ..., host_uuid: _Optional[str] = ..., host_name: _Optional[str] = ..., vtep: _Optional[str] = ...) -> None: ...

class LearnedAddress(_message.Message):
    __slots__ = ("address", "source", "since", "refused", "mac", "probed")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    PROBED_FIELD_NUMBER: _ClassVar[int]
    address: str
    source: str
    since: str
    refused: str
    mac: str
    probed: bool
    def __init__(self, address: _Optional[str] = ..., source: _Optional[str] = ..., since: _Optional[str] = ..., refused: _Optional[str] = ..., mac: _Optional[str] = ..., probed: _Optional[bool] = ...) -> None: ...

class LearnedMac(_message.Message):
    __slots__ = ("mac", "since", "refused")
    MAC_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    mac: str
    since: str
    refused: str
    def __init__(self, mac: _Optional[str] = ..., since: _Optional[str] = ..., refused: _Optional[str] = ...) -> None: ...

class Learned(_message.Message):
    __slots__ = ("port_uuid", "network_uuid", "addresses", "macs")
    PORT_UUID_FIELD_NUMBER: _ClassVar[int]
    NETWORK_UUID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    MACS_FIELD_NUMBER: _ClassVar[int]
    port_uuid: str
    network_uuid: str
    addresses: _containers.RepeatedCompositeFieldContainer[LearnedAddress]
    macs: _containers.RepeatedCompositeFieldContainer[LearnedMac]
    def __init__(self, port_uuid: _Optional[str] = ..., network_uuid: _Optional[str] = ..., addresses: _Optional[_Iterable[_Union[LearnedAddress, _Mapping]]] = ..., macs: _Optional[_Iterable[_Union[LearnedMac, _Mapping]]] = ...) -> None: ...

class Object(_message.Message):
    __slots__ = ("version", "zone", "switch", "network", "port", "location", "host", "withdrawal", "security_group", "learned")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    SWITCH_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWAL_FIELD_NUMBER: _ClassVar[int]
    SECURITY_GROUP_FIELD_NUMBER: _ClassVar[int]
    LEARNED_FIELD_NUMBER: _ClassVar[int]
    version: int
    zone: TransportZone
    switch: OpaqueSwitch
    network: OpaqueNetwork
    port: LogicalPort
    location: Location
    host: HostConfig
    withdrawal: Withdrawal
    security_group: SecurityGroup
    learned: Learned
    def __init__(self, version: _Optional[int] = ..., zone: _Optional[_Union[TransportZone, _Mapping]] = ..., switch: _Optional[_Union[OpaqueSwitch, _Mapping]] = ..., network: _Optional[_Union[OpaqueNetwork, _Mapping]] = ..., port: _Optional[_Union[LogicalPort, _Mapping]] = ..., location: _Optional[_Union[Location, _Mapping]] = ..., host: _Optional[_Union[HostConfig, _Mapping]] = ..., withdrawal: _Optional[_Union[Withdrawal, _Mapping]] = ..., security_group: _Optional[_Union[SecurityGroup, _Mapping]] = ..., learned: _Optional[_Union[Learned, _Mapping]] = ...) -> None: ...

class ObjectRef(_message.Message):
    __slots__ = ("kind", "uuid", "version")
    KIND_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    kind: str
    uuid: str
    version: int
    def __init__(self, kind: _Optional[str] = ..., uuid: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class Pnic(_message.Message):
    __slots__ = ("name", "mac", "speed_mbps", "link_up", "mtu")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    SPEED_MBPS_FIELD_NUMBER: _ClassVar[int]
    LINK_UP_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    name: str
    mac: str
    speed_mbps: int
    link_up: bool
    mtu: int
    def __init__(self, name: _Optional[str] = ..., mac: _Optional[str] = ..., speed_mbps: _Optional[int] = ..., link_up: _Optional[bool] = ..., mtu: _Optional[int] = ...) -> None: ...

class SwitchStatus(_message.Message):
    __slots__ = ("switch_uuid", "status", "health", "reasons", "vteps", "pnics", "datapath", "peers")
    SWITCH_UUID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    VTEPS_FIELD_NUMBER: _ClassVar[int]
    PNICS_FIELD_NUMBER: _ClassVar[int]
    DATAPATH_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    switch_uuid: str
    status: str
    health: int
    reasons: _containers.RepeatedScalarFieldContainer[str]
    vteps: _containers.RepeatedScalarFieldContainer[str]
    pnics: _containers.RepeatedScalarFieldContainer[str]
    datapath: str
    peers: _containers.RepeatedCompositeFieldContainer[PeerStatus]
    def __init__(self, switch_uuid: _Optional[str] = ..., status: _Optional[str] = ..., health: _Optional[int] = ..., reasons: _Optional[_Iterable[str]] = ..., vteps: _Optional[_Iterable[str]] = ..., pnics: _Optional[_Iterable[str]] = ..., datapath: _Optional[str] = ..., peers: _Optional[_Iterable[_Union[PeerStatus, _Mapping]]] = ...) -> None: ...

class PeerStatus(_message.Message):
    __slots__ = ("vtep", "host_uuid", "type", "state", "shared", "cut", "mtu")
    VTEP_FIELD_NUMBER: _ClassVar[int]
    HOST_UUID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    vtep: str
    host_uuid: str
    type: str
    state: str
    shared: bool
    cut: bool
    mtu: int
    def __init__(self, vtep: _Optional[str] = ..., host_uuid: _Optional[str] = ..., type: _Optional[str] = ..., state: _Optional[str] = ..., shared: _Optional[bool] = ..., cut: _Optional[bool] = ..., mtu: _Optional[int] = ...) -> None: ...

class NetworkStatus(_message.Message):
    __slots__ = ("network_uuid", "status", "health", "reasons")
    NETWORK_UUID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    network_uuid: str
    status: str
    health: int
    reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, network_uuid: _Optional[str] = ..., status: _Optional[str] = ..., health: _Optional[int] = ..., reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class VifStatus(_message.Message):
    __slots__ = ("vif_uuid", "port_uuid", "network_uuid", "state", "reason", "ovs_port", "vm_uuid", "mac")
    VIF_UUID_FIELD_NUMBER: _ClassVar[int]
    PORT_UUID_FIELD_NUMBER: _ClassVar[int]
    NETWORK_UUID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    OVS_PORT_FIELD_NUMBER: _ClassVar[int]
    VM_UUID_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    vif_uuid: str
    port_uuid: str
    network_uuid: str
    state: str
    reason: str
    ovs_port: str
    vm_uuid: str
    mac: str
    def __init__(self, vif_uuid: _Optional[str] = ..., port_uuid: _Optional[str] = ..., network_uuid: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., ovs_port: _Optional[str] = ..., vm_uuid: _Optional[str] = ..., mac: _Optional[str] = ...) -> None: ...
