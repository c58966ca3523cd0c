"""What `hostagent port attach` asks for, checked against what this host has and knows.

A request is refused before anything is claimed or made, with a sentence that says what to do.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from uuid import UUID, uuid5

from hostagent.lookup import Lookup
from hostagent.model import Link
from hostagent.realize.endpoint_links import has_netns, netns_path
from hostagent.records import Endpoint, EndpointKind
from hostagent.state import State
from netmgr.contract.types import AttachMode, LogicalPort, OpaqueNetwork

__all__ = ["EndpointRefused", "canonical", "check_place", "has_own_vif", "place", "resolve_request"]

_PORT_S = 3.0  # how long a port that was named may take to be pushed
_IFNAME = re.compile(r"[A-Za-z0-9_.@-]{1,15}\Z")


class EndpointRefused(Exception):
    """What was asked for can't be done; the message says why and what to do."""


async def resolve_request(
    words: Mapping[str, str], *, state: State, lookup: Lookup, host_uuid: UUID
) -> tuple[OpaqueNetwork, LogicalPort | None, Endpoint]:
    """Network, port and endpoint that *words* ask for; the port is None where the claim is to make it.

    Raises:
        EndpointRefused: words that do not fit, or name what this host does not know.
    """
    kinds = [kind for kind in EndpointKind if words[kind.value]]
    if len(kinds) != 1:
        raise EndpointRefused("exactly one of --netns, --internal and --pnic says what is attached")
    kind = kinds[0]
    ifname = words["ifname"] or "eth0" if kind is EndpointKind.NETNS else words[kind.value]
    if not _IFNAME.match(ifname):
        raise EndpointRefused(f"interface name {ifname!r}: wanted up to 15 letters, digits, and _ . @ -")
    network = lookup.network(words["network"]) if words["network"] else None
    if words["network"] and network is None:
        names = ", ".join(sorted(n.name for n in state.networks.values())) or "none"
        raise EndpointRefused(f"no opaque network {words['network']!r} on this host; it has {names}")
    port = await _find_port(words["which"], network, state=state, lookup=lookup) if words["which"] else None
    if network is None:
        network = state.networks.get(port.network_uuid) if port is not None else None
    if network is None:
        raise EndpointRefused("name the network with --network: this host knows no such port yet")
    if port is not None and port.vif_uuid is None:
        raise EndpointRefused(
            f"port {port.name} has no VIF yet; give it one: netmgr port attach {port.name} --vif UUID"
        )
    netns = str(netns_path(words["netns"])) if kind is EndpointKind.NETNS else ""
    own = _own_vif(host_uuid, network.uuid, words["name"] or netns, ifname)
    vif = port.vif_uuid if port is not None and port.vif_uuid is not None else own
    known = state.ports.get(state.port_by_vif.get(vif, vif))
    if port is None and known is None and network.attach_mode is AttachMode.MANUAL:
        raise EndpointRefused(
            f"network {network.name} takes only ports made for it (attach mode manual); make one and attach a VIF:"
            " netmgr port create, netmgr port attach; then name the port here"
        )
    mac = (words["mac"] or (port or known).mac) if port or known else words["mac"] or _mac_of(vif)  # type: ignore[union-attr]
    addresses = tuple(_address(text, network) for text in words["addresses"].split(",") if text)
    if not addresses and port is not None:
        addresses = tuple(_address(text, network) for text in port.ips)
    endpoint = Endpoint(
        vif_uuid=vif,
        port_uuid=port.uuid if port is not None else vif,
        network_uuid=network.uuid,
        kind=kind,
        device=_device_of(vif) if kind is EndpointKind.NETNS else ifname,
        netns=netns,
        ifname=ifname,
        mac=mac,
        addresses=() if kind is EndpointKind.PNIC else addresses,
        name=words["name"],
    )
    return network, port, endpoint


def has_own_vif(endpoint: Endpoint, host_uuid: UUID) -> bool:
    """True where nobody but this host has given the endpoint its VIF: a claim made the port."""
    own = _own_vif(host_uuid, endpoint.network_uuid, endpoint.name or endpoint.netns, endpoint.ifname)
    return endpoint.vif_uuid == own


def _own_vif(host_uuid: UUID, network_uuid: UUID, name: str, ifname: str) -> UUID:
    return uuid5(host_uuid, f"{network_uuid}/{name}/{ifname}")


def check_place(endpoint: Endpoint, links: Mapping[str, Link], bridge: str) -> None:
    """Refuse a place for a new endpoint that is not there or is somebody else's; *bridge* has its device already.

    Raises:
        EndpointRefused: with what is in the way.
    """
    link = links.get(endpoint.ifname)
    if endpoint.kind is EndpointKind.NETNS and not has_netns(endpoint.netns):
        raise EndpointRefused(f"network namespace {endpoint.netns} does not exist; make it first (`ip netns add NAME`)")
    if endpoint.kind is EndpointKind.INTERNAL and link is not None:
        raise EndpointRefused(f"interface {endpoint.ifname} exists on this host already; choose another name")
    if endpoint.kind is EndpointKind.PNIC:
        if link is None:
            raise EndpointRefused(f"no interface {endpoint.ifname} on this host; it has {', '.join(sorted(links))}")
        if any(not address.startswith("fe80:") for address in link.addresses):
            raise EndpointRefused(f"interface {endpoint.ifname} carries {', '.join(link.addresses)}; remove them first")
        if link.master or bridge:
            raise EndpointRefused(f"interface {endpoint.ifname} is part of {link.master or bridge}; take it out first")


async def _find_port(which: str, network: OpaqueNetwork | None, *, state: State, lookup: Lookup) -> LogicalPort:
    def fits(port: LogicalPort) -> bool:
        return which in (port.name, str(port.uuid), str(port.vif_uuid or ""))

    if network is not None:
        port = await lookup.port(network.uuid, fits, deadline_s=_PORT_S)
        if port is None:
            raise EndpointRefused(
                f"network {network.name} has no port {which!r}; `netmgr port list` shows those there are"
            )
        return port
    found = [port for port in state.ports.values() if fits(port)]
    if len(found) != 1:
        problem = "several ports are called" if found else "this host knows no port"
        raise EndpointRefused(f"{problem} {which!r}; name its network too, with --network")
    return found[0]


def canonical(address: str) -> str:
    """A CIDR as the kernel would say it."""
    return str(ipaddress.ip_interface(address))


def _address(text: str, network: OpaqueNetwork) -> str:
    """A CIDR; an address without a prefix takes that of the network's subnet it is in."""
    try:
        address = ipaddress.ip_interface(text.strip())
        subnets = [ipaddress.ip_network(subnet, strict=False) for subnet in network.subnets]
    except ValueError as error:
        raise EndpointRefused(f"address {text!r}: {error}; wanted one like 10.0.0.5/24") from None
    if "/" in text:
        return str(address)
    subnet = next((one for one in subnets if address.ip in one), None)
    return f"{address.ip}/{subnet.prefixlen}" if subnet is not None else str(address)


def _mac_of(vif: UUID) -> str:
    """A locally administered unicast MAC."""
    return ":".join(f"{byte:02x}" for byte in (2, *vif.bytes[:5]))


def _device_of(vif: UUID) -> str:
    """A name for the host's end of a veth: of the whole UUID, because those that people write begin alike."""
    return f"opn-{uuid5(vif, 'device').hex[:10]}"


def place(endpoint: Endpoint) -> str:
    """Where an endpoint is, in words."""
    where = f" in {endpoint.netns}" if endpoint.netns else ""
    return f"interface {endpoint.ifname}{where}"
