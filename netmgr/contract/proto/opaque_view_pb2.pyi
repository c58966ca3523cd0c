from netmgr.contract.proto import objects_pb2 as _objects_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ViewRequest(_message.Message):
    __slots__ = ("host_uuids",)
    HOST_UUIDS_FIELD_NUMBER: _ClassVar[int]
    host_uuids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, host_uuids: _Optional[_Iterable[str]] = ...) -> None: ...

class View(_message.Message):
    __slots__ = ("source", "hosts")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    source: str
    hosts: _containers.RepeatedCompositeFieldContainer[HostView]
    def __init__(self, source: _Optional[str] = ..., hosts: _Optional[_Iterable[_Union[HostView, _Mapping]]] = ...) -> None: ...

class HostView(_message.Message):
    __slots__ = ("host_uuid", "host_name", "in_sync", "manager_connected", "sync_age_s", "zones", "switches", "networks", "vifs")
    HOST_UUID_FIELD_NUMBER: _ClassVar[int]
    HOST_NAME_FIELD_NUMBER: _ClassVar[int]
    IN_SYNC_FIELD_NUMBER: _ClassVar[int]
    MANAGER_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    SYNC_AGE_S_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    SWITCHES_FIELD_NUMBER: _ClassVar[int]
    NETWORKS_FIELD_NUMBER: _ClassVar[int]
    VIFS_FIELD_NUMBER: _ClassVar[int]
    host_uuid: str
    host_name: str
    in_sync: bool
    manager_connected: bool
    sync_age_s: float
    zones: _containers.RepeatedCompositeFieldContainer[_objects_pb2.TransportZone]
    switches: _containers.RepeatedCompositeFieldContainer[OpaqueSwitchInfo]
    networks: _containers.RepeatedCompositeFieldContainer[OpaqueNetworkInfo]
    vifs: _containers.RepeatedCompositeFieldContainer[_objects_pb2.VifStatus]
    def __init__(self, host_uuid: _Optional[str] = ..., host_name: _Optional[str] = ..., in_sync: _Optional[bool] = ..., manager_connected: _Optional[bool] = ..., sync_age_s: _Optional[float] = ..., zones: _Optional[_Iterable[_Union[_objects_pb2.TransportZone, _Mapping]]] = ..., switches: _Optional[_Iterable[_Union[OpaqueSwitchInfo, _Mapping]]] = ..., networks: _Optional[_Iterable[_Union[OpaqueNetworkInfo, _Mapping]]] = ..., vifs: _Optional[_Iterable[_Union[_objects_pb2.VifStatus, _Mapping]]] = ...) -> None: ...

class OpaqueSwitchInfo(_message.Message):
    __slots__ = ("key", "name", "pnic", "pnic_zone", "status", "vtep", "extra_config", "health", "reasons", "opaque")
    class ExtraConfigEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PNIC_FIELD_NUMBER: _ClassVar[int]
    PNIC_ZONE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VTEP_FIELD_NUMBER: _ClassVar[int]
    EXTRA_CONFIG_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    OPAQUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    name: str
    pnic: _containers.RepeatedScalarFieldContainer[str]
    pnic_zone: _containers.RepeatedScalarFieldContainer[str]
    status: str
    vtep: _containers.RepeatedScalarFieldContainer[str]
    extra_config: _containers.ScalarMap[str, str]
    health: int
    reasons: _containers.RepeatedScalarFieldContainer[str]
    opaque: bool
    def __init__(self, key: _Optional[str] = ..., name: _Optional[str] = ..., pnic: _Optional[_Iterable[str]] = ..., pnic_zone: _Optional[_Iterable[str]] = ..., status: _Optional[str] = ..., vtep: _Optional[_Iterable[str]] = ..., extra_config: _Optional[_Mapping[str, str]] = ..., health: _Optional[int] = ..., reasons: _Optional[_Iterable[str]] = ..., opaque: _Optional[bool] = ...) -> None: ...

class OpaqueNetworkInfo(_message.Message):
    __slots__ = ("opaque_network_id", "opaque_network_name", "opaque_network_type", "pnic_zone", "capability", "extra_config", "status", "health", "reasons", "switch_key", "opaque")
    class ExtraConfigEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    OPAQUE_NETWORK_ID_FIELD_NUMBER: _ClassVar[int]
    OPAQUE_NETWORK_NAME_FIELD_NUMBER: _ClassVar[int]
    OPAQUE_NETWORK_TYPE_FIELD_NUMBER: _ClassVar[int]
    PNIC_ZONE_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    EXTRA_CONFIG_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    SWITCH_KEY_FIELD_NUMBER: _ClassVar[int]
    OPAQUE_FIELD_NUMBER: _ClassVar[int]
    opaque_network_id: str
    opaque_network_name: str
    opaque_network_type: str
    pnic_zone: _containers.RepeatedScalarFieldContainer[str]
    capability: _containers.RepeatedScalarFieldContainer[str]
    extra_config: _containers.ScalarMap[str, str]
    status: str
    health: int
    reasons: _containers.RepeatedScalarFieldContainer[str]
    switch_key: str
    opaque: bool
    def __init__(self, opaque_network_id: _Optional[str] = ..., opaque_network_name: _Optional[str] = ..., opaque_network_type: _Optional[str] = ..., pnic_zone: _Optional[_Iterable[str]] = ..., capability: _Optional[_Iterable[str]] = ..., extra_config: _Optional[_Mapping[str, str]] = ..., status: _Optional[str] = ..., health: _Optional[int] = ..., reasons: _Optional[_Iterable[str]] = ..., switch_key: _Optional[str] = ..., opaque: _Optional[bool] = ...) -> None: ...
