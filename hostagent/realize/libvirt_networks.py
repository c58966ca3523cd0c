"""libvirt networks: one for each opaque network, with its UUID and name, over the switch's bridge.

Theory of operation. A network of ours is known by the element in its metadata; one that lost it to an edit is still
known by its bridge, whose name only we give. Its XML says nothing but where taps go: libvirt admits no `<mtu>` beside
`<forward mode='bridge'/>`, so the MTU is an attribute of our metadata, where whoever defines a domain may read it.
What libvirt shows, persistent and live, is compared with what we define, so an edit of either shows. XML is read once
and again after libvirt's event for that network, or when a full reading is asked for. What libvirt has said yes to
counts as done; its events of that, a moment later, cause the network to be read back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape  # as XML needs it; that of xml.sax brings an HTTP client along
from typing import Any
from uuid import UUID
from xml.etree import ElementTree

import libvirt

from hostagent.model import DefineNetwork, KeepNetwork, LibvirtNetwork, RemoveNetwork, Unread
from hostagent.realize.errors import RealizeError
from hostagent.realize.libvirt_link import LibvirtLink

__all__ = ["LibvirtNetworks", "network_xml", "parse_network"]

_NAMESPACE = "urn:opaque-networks:1"
_OURS = f"{{{_NAMESPACE}}}network"
_BRIDGE = re.compile(r"osw-[0-9a-f]{10}\Z")


class LibvirtNetworks:
    """Reads and changes libvirt's networks over a `LibvirtLink`."""

    def __init__(self, link: LibvirtLink, *, on_change: Callable[[], None]) -> None:
        self._link = link
        self._on_change = on_change
        self._cache: dict[str, LibvirtNetwork] = {}
        link.subscribe(connected=self._register, changed=self._reconnected)

    async def read(self, *, full: bool = False) -> tuple[LibvirtNetwork, ...] | Unread:
        """All libvirt networks, sorted by name, foreign ones too; `Unread` without libvirtd.

        With *full* nothing comes from the cache.
        """
        if full:
            self._cache.clear()
        try:
            return await self._link.call(self._read)
        except RealizeError as error:
            return Unread(error.sentence)

    async def apply(self, step: DefineNetwork | KeepNetwork | RemoveNetwork) -> LibvirtNetwork | None:
        """Carry one step out. Taps that are plugged stay plugged. The network as libvirt has it then; None: removed.

        Raises:
            RealizeError: libvirt refused, or a foreign network is in the way.
        """
        try:
            if isinstance(step, RemoveNetwork):
                await self._link.call(lambda conn: _remove(conn, step))
                found = None
            elif isinstance(step, KeepNetwork):
                found = await self._link.call(lambda conn: _keep(conn, step))
            else:
                found = await self._link.call(lambda conn: _define(conn, step))
        finally:
            self._cache.pop(str(step.uuid), None)
        if found is not None:
            self._cache[str(step.uuid)] = found
        return found

    # --- in libvirt's threads --------------------------------------------------------------------------------------

    def _read(self, conn: Any) -> tuple[LibvirtNetwork, ...]:
        found: dict[str, LibvirtNetwork] = {}
        for network in conn.listAllNetworks():
            key = network.UUIDString()
            value = self._cache.get(key)
            if value is None:
                try:
                    value = _read_network(network)
                except libvirt.libvirtError as error:
                    if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
                        continue  # went away since it was listed
                    raise
                self._cache[key] = value
            found[key] = value
        return tuple(sorted(found.values(), key=lambda network: network.name))

    def _register(self, conn: Any) -> None:
        conn.networkEventRegisterAny(None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, self._event, None)

    def _event(self, _conn: Any, network: Any, _event: int, _detail: int, _opaque: Any) -> None:
        self._link.dispatch(self._forget, network.UUIDString())

    # --- on the event loop -----------------------------------------------------------------------------------------

    def _forget(self, key: str) -> None:
        self._cache.pop(key, None)
        self._on_change()

    def _reconnected(self) -> None:
        self._cache.clear()
        self._on_change()


def network_xml(step: DefineNetwork | KeepNetwork) -> str:
    """The XML that realizes *step*."""
    return (
        "<network>"
        f"<name>{escape(step.name)}</name>"
        f"<uuid>{step.uuid}</uuid>"
        f'<metadata><opaque:network xmlns:opaque="{_NAMESPACE}" owner="hostagent" mtu="{step.mtu}"/></metadata>'
        "<forward mode='bridge'/>"
        f'<bridge name="{escape(step.bridge)}"/>'
        "<virtualport type='openvswitch'/>"
        "</network>"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedNetwork:
    """What one XML of a network says; `plain` is False when it says more than we define."""

    bridge: str
    mtu: int
    ours: bool
    plain: bool


def parse_network(xml: str) -> ParsedNetwork:
    """Read libvirt's XML of a network; it comes from libvirtd, which has checked it."""
    root = ElementTree.fromstring(xml)
    bridge, mtu, mark = "", 0, False
    seen: dict[str, bool] = {}  # element -> as we define it
    for child in root:
        if child.tag in ("name", "uuid"):
            continue
        if child.tag == "metadata":
            elements = list(child)
            marks = [element for element in elements if element.tag == _OURS]
            mark = bool(marks) and marks[0].get("owner") == "hostagent"
            text = marks[0].get("mtu", "") if marks else ""
            mtu = int(text) if text.isdecimal() else 0
            seen["metadata"] = mark and len(elements) == 1
        elif child.tag == "bridge":
            bridge = child.get("name", "")
            seen["bridge"] = set(child.attrib) == {"name"}
        elif child.tag == "forward":
            seen["forward"] = child.attrib == {"mode": "bridge"} and not len(child)
        elif child.tag == "virtualport":
            seen["virtualport"] = child.attrib == {"type": "openvswitch"} and not len(child)
        else:
            seen[child.tag] = False
    plain = set(seen) == {"metadata", "bridge", "forward", "virtualport"} and all(seen.values())
    return ParsedNetwork(bridge=bridge, mtu=mtu, ours=mark or bool(_BRIDGE.match(bridge)), plain=plain)


def _read_network(network: Any) -> LibvirtNetwork:
    active = bool(network.isActive())
    persistent = bool(network.isPersistent())
    kept = parse_network(network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE if persistent else 0))
    live = parse_network(network.XMLDesc(0)) if active else kept
    return LibvirtNetwork(
        uuid=UUID(network.UUIDString()),
        name=network.name(),
        bridge=kept.bridge,
        mtu=kept.mtu,
        ours=kept.ours or live.ours,
        active=active,
        autostart=persistent and bool(network.autostart()),
        persistent=persistent,
        as_defined=kept.plain and live == kept,
    )


def _define(conn: Any, step: DefineNetwork) -> LibvirtNetwork:
    before = _ours(conn, step)
    if before is not None and before.name != step.name:  # libvirt can't rename
        _remove(conn, RemoveNetwork(uuid=step.uuid))
        before = None
    xml = network_xml(step)
    if before is None:  # one call, and guests can be started; what makes it last takes two more
        _refusing(step, conn.networkCreateXML, xml)
        return _as_wanted(step, kept=False)
    network = _refusing(step, conn.networkDefineXML, xml)
    active = before.active
    if active and parse_network(network.XMLDesc(0)) != parse_network(xml):
        network.destroy()  # of a network over a foreign bridge: no tap is touched
        active = False
    if not active:
        network.create()
    if not before.autostart:
        network.setAutostart(1)
    return _as_wanted(step, kept=True)


def _keep(conn: Any, step: KeepNetwork) -> LibvirtNetwork:
    if _ours(conn, step) is None:  # it went meanwhile: the next plan gives it back
        raise RealizeError(f"network {step.name} ({step.uuid}): libvirt has it no more, so it can't keep it")
    _refusing(step, conn.networkDefineXML, network_xml(step)).setAutostart(1)
    return _as_wanted(step, kept=True)


def _ours(conn: Any, step: DefineNetwork | KeepNetwork) -> LibvirtNetwork | None:
    """The network of this UUID as libvirt has it; None when there is none.

    Raises:
        RealizeError: it is somebody else's.
    """
    network = _lookup(conn, step.uuid)
    if network is None:
        return None
    found = _read_network(network)
    if not found.ours:
        raise RealizeError(
            f"network {step.name} ({step.uuid}): a libvirt network of this UUID, named {found.name!r}, was made by"
            " somebody else and is left alone; remove it with `virsh net-undefine` to let ours in"
        )
    return found


def _refusing(step: DefineNetwork | KeepNetwork, make: Callable[[str], Any], xml: str) -> Any:
    try:
        return make(xml)
    except libvirt.libvirtError as error:
        raise RealizeError(f"network {step.name} ({step.uuid}): libvirt refused its definition: {error}") from None


def _as_wanted(step: DefineNetwork | KeepNetwork, *, kept: bool) -> LibvirtNetwork:
    return LibvirtNetwork(
        uuid=step.uuid,
        name=step.name,
        bridge=step.bridge,
        mtu=step.mtu,
        ours=True,
        active=True,
        autostart=kept,
        persistent=kept,
        as_defined=True,
    )


def _remove(conn: Any, step: RemoveNetwork) -> None:
    network = _lookup(conn, step.uuid)
    if network is None:
        return
    before = _read_network(network)
    if not before.ours:
        raise RealizeError(f"libvirt network {before.name} ({step.uuid}) is not ours and is left alone")
    persistent = network.isPersistent()
    if before.active:
        network.destroy()
    if persistent:
        network.undefine()


def _lookup(conn: Any, uuid: UUID) -> Any:
    try:
        return conn.networkLookupByUUIDString(str(uuid))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
            return None
        raise
