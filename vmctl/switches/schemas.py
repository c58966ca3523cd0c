"""Requests and answers of the API for traditional switches. Requests refuse what they do not know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field

from vmctl.switches.model import Datapath, Drift, HostSwitch, PortGroup, Rate, Switch, SwitchHost, Uplink

__all__ = ["GroupIn", "GroupOut", "GroupSetIn", "SwitchIn", "SwitchOut", "SwitchSetIn"]

Name = Annotated[str, Field(min_length=1, max_length=63)]
Kib = Annotated[int, Field(ge=0, le=2**31 - 1)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RateIn(_In):
    """A limit, in KiB/s and KiB."""

    average_kib_s: Annotated[int, Field(ge=1, le=2**31 - 1)]
    peak_kib_s: Kib = 0
    burst_kib: Kib = 0

    def value(self) -> Rate:
        return Rate(average_kib_s=self.average_kib_s, peak_kib_s=self.peak_kib_s, burst_kib=self.burst_kib)


class GroupIn(_In):
    """A port group; a VLAN or MTU of null is none."""

    name: Name
    vlan: int | None = None
    mtu: int | None = None
    inbound: RateIn | None = None
    outbound: RateIn | None = None

    def value(self) -> PortGroup:
        return PortGroup(
            name=self.name,
            vlan=self.vlan,
            mtu=self.mtu,
            inbound=self.inbound.value() if self.inbound else None,
            outbound=self.outbound.value() if self.outbound else None,
        )


class GroupSetIn(_In):
    """What to change of a port group: fields that are left out stay, null takes away."""

    vlan: int | None = None
    mtu: int | None = None
    inbound: RateIn | None = None
    outbound: RateIn | None = None

    def applied(self, group: PortGroup) -> PortGroup:
        """*group* with the fields that were given."""
        given = GroupIn(name=group.name, **self.model_dump()).value()
        return PortGroup(
            name=group.name,
            **{
                key: getattr(given if key in self.model_fields_set else group, key)
                for key in ("vlan", "mtu", "inbound", "outbound")
            },
        )


class HostIn(_In):
    host: Name
    device: Annotated[str, Field(max_length=15)] = ""


class SwitchIn(_In):
    """A traditional switch to make on hosts."""

    name: Name
    hosts: Annotated[list[HostIn], Field(min_length=1, max_length=10_000)]
    uplink: Uplink = Uplink.ISOLATED
    datapath: Datapath = Datapath.AUTO
    uuid: UUID | None = None
    groups: Annotated[list[GroupIn], Field(max_length=4096)] = []

    def value(self) -> Switch:
        return Switch(
            uuid=self.uuid or uuid4(),
            name=self.name,
            uplink=self.uplink,
            datapath=self.datapath,
            hosts=_hosts(self.hosts),
            groups=tuple(group.value() for group in self.groups),
        )


class SwitchSetIn(_In):
    """What to change of a switch; its name and its kind of uplink stay."""

    hosts: Annotated[list[HostIn], Field(min_length=1, max_length=10_000)] | None = None
    datapath: Datapath | None = None

    def hosts_value(self) -> tuple[SwitchHost, ...] | None:
        return _hosts(self.hosts) if self.hosts is not None else None


# --- answers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class GroupOut:
    """A port group with the VMs that have a NIC on it."""

    switch: str
    group: PortGroup
    vms: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SwitchOut:
    """A switch, how it fares on each host, and the local changes to it that were put back, newest first."""

    switch: Switch
    hosts: tuple[HostSwitch, ...]
    groups: tuple[GroupOut, ...]
    drifts: tuple[Drift, ...]
    opaque: bool = False


def _hosts(hosts: list[HostIn]) -> tuple[SwitchHost, ...]:
    return tuple(SwitchHost(host=host.host, device=host.device) for host in hosts)
