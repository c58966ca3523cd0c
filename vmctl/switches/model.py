"""Traditional switches: what vmctl itself provides, beside the opaque networks that it only reads. Pure.

A switch is a layer 2 on the hosts an administrator chose, with one libvirt network of the same UUID and name on each.
Its uplink port group is what joins the hosts: an Open vSwitch bridge that the operator has made and put a NIC into, or
a NIC itself. Without an uplink the switch is isolated: on each host a layer 2 of its own. Port groups are what NICs of
VMs are plugged into; they carry a VLAN, an MTU and rate limits. vmctl's store says what a switch is; what a host's
libvirt shows is made to follow it (`vmctl.switches.plan`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from vmctl.model import VmctlError

__all__ = [
    "Datapath",
    "Drift",
    "HostState",
    "HostSwitch",
    "PortGroup",
    "Rate",
    "Switch",
    "SwitchHost",
    "Uplink",
    "check_switch",
]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")  # names of Linux network devices have at most 15 characters
RESERVED = ("osw-", "upl-", "tsw-")  # bridges that the network manager's agents and vmctl make themselves


class Uplink(StrEnum):
    """What carries the switch between hosts."""

    ISOLATED = "isolated"  # nothing: a Linux bridge that libvirt makes on each host
    BRIDGE = "bridge"  # an Open vSwitch bridge of the operator's
    NIC = "nic"  # a NIC of the host, by macvtap


class Datapath(StrEnum):
    """Where an uplink bridge forwards; guests must not leave checksums to one in user space."""

    AUTO = "auto"  # as the opaque switches of its hosts do
    KERNEL = "kernel"
    USERSPACE = "userspace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A limit of traffic, in the units of libvirt: KiB a second, and KiB for a burst. 0 where not given."""

    average_kib_s: int
    peak_kib_s: int = 0
    burst_kib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PortGroup:
    """Where NICs are plugged. *inbound* is what a guest receives, *outbound* what it sends."""

    name: str
    vlan: int | None = None
    mtu: int | None = None
    inbound: Rate | None = None
    outbound: Rate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchHost:
    """A host of a switch, and the bridge or NIC there that is its uplink; empty where the switch is isolated."""

    host: str
    device: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A traditional switch as an administrator wants it. Each change raises its generation."""

    uuid: UUID
    name: str
    uplink: Uplink = Uplink.ISOLATED
    datapath: Datapath = Datapath.AUTO
    hosts: tuple[SwitchHost, ...] = ()
    groups: tuple[PortGroup, ...] = ()
    generation: int = 1

    def host(self, name: str) -> SwitchHost | None:
        """The switch on that host, None where it is not meant to be."""
        return next((host for host in self.hosts if host.host == name), None)

    def group(self, name: str) -> PortGroup | None:
        """The port group of that name, None when there is none."""
        return next((group for group in self.groups if group.name == name), None)


class HostState(StrEnum):
    REALIZED = "realized"
    PENDING = "pending"  # not done yet, or it failed and will be tried again
    CONFLICT = "conflict"  # a network of others is in the way; it is left alone
    UNREAD = "unread"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSwitch:
    """How a switch fares on one host; the sentence says why where it is not realized."""

    host: str
    state: HostState
    sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A local change that was found and put back."""

    at: str
    host: str
    switch: UUID
    sentence: str


def check_switch(switch: Switch) -> None:
    """Refuses what cannot be realized.

    Raises:
        VmctlError: the sentence names the field, what was found and what is possible.
    """
    _check_name("switch", switch.name)
    if not switch.hosts:
        raise VmctlError(f"switch {switch.name} has no host; name one at least (--hosts h1,h2)")
    for host in switch.hosts:
        _check_device(switch, host)
    for group in switch.groups:
        _check_group(switch, group)
    for what, names in (("host", [h.host for h in switch.hosts]), ("port group", [g.name for g in switch.groups])):
        if twice := _twice(names):
            raise VmctlError(f"switch {switch.name}: {what} {twice} is there twice", status=409)


def _check_device(switch: Switch, host: SwitchHost) -> None:
    if switch.uplink is Uplink.ISOLATED:
        if host.device:
            raise VmctlError(f"switch {switch.name} is isolated and takes no uplink on {host.host}")
        return
    if not DEVICE.fullmatch(host.device):
        found = f"{host.device!r} is none" if host.device else "none is given"
        raise VmctlError(
            f"switch {switch.name}: the name of a {switch.uplink} on {host.host} is wanted, and {found} "
            f"(--{switch.uplink} {host.host}=NAME)"
        )
    if host.device.startswith(RESERVED):
        raise VmctlError(
            f"switch {switch.name}: {host.device} on {host.host} is made by software (of an opaque or a traditional "
            "switch); take a bridge or NIC of your own"
        )


def _check_group(switch: Switch, group: PortGroup) -> None:
    _check_name("port group", group.name)
    label = f"port group {switch.name}/{group.name}"
    if group.vlan is not None:
        if not 1 <= group.vlan <= 4094:
            raise VmctlError(f"{label}: VLAN {group.vlan} is none; 1 to 4094 are")
        if switch.uplink is not Uplink.BRIDGE:
            raise VmctlError(
                f"{label}: libvirt tags frames on Open vSwitch bridges only, and {switch.name} is "
                f"{'isolated' if switch.uplink is Uplink.ISOLATED else 'on NICs'}; make a switch with --bridge, or "
                "leave the VLAN out"
            )
    if group.mtu is not None and not 68 <= group.mtu <= 65535:
        raise VmctlError(f"{label}: MTU {group.mtu} is none; 68 to 65535 are")
    for direction, rate in (("inbound", group.inbound), ("outbound", group.outbound)):
        if rate is None:
            continue
        if rate.average_kib_s < 1:
            raise VmctlError(f"{label}: {direction} wants an average of 1 KiB/s at least")
        if rate.peak_kib_s and rate.peak_kib_s < rate.average_kib_s:
            raise VmctlError(
                f"{label}: {direction} peak {rate.peak_kib_s} KiB/s is below the average of {rate.average_kib_s} KiB/s"
            )


def _check_name(what: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise VmctlError(
            f"{what} {name!r}: a name has 1 to 63 letters, digits, '_', '.', '-', and begins with a letter or digit"
        )


def _twice(names: Sequence[str]) -> str:
    return next((name for index, name in enumerate(names) if name in names[:index]), "")
