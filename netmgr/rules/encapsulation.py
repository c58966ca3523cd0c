"""What a tunnel adds to a guest's packet: the one place that knows.

An opaque switch's MTU bounds the outer IP packet. The guest's packet travels in it behind an outer IP header, the
tunnel's own header, and the guest's Ethernet header. The figures are those of RFC 7348 (VXLAN), RFC 8926 (Geneve, no
options) and RFC 7637 (NVGRE: GRE with the key field). The tag of a VLAN network adds nothing: network devices, their
drivers and Open vSwitch count it beside their MTU (IEEE 802.1Q), so the guest's packet may be as large as the switch's.
"""

from __future__ import annotations

from ipaddress import ip_network

from netmgr.contract.types import NetworkType, OpaqueSwitch

__all__ = ["network_mtu_max", "overhead"]

_IP_HEADER = {4: 20, 6: 40}
_INNER_ETHERNET = 14
_TUNNEL_HEADER = {
    NetworkType.VXLAN: 8 + 8,  # UDP, VXLAN
    NetworkType.GENEVE: 8 + 8,  # UDP, Geneve
    NetworkType.NVGRE: 4 + 4,  # GRE, key
}


def overhead(network_type: NetworkType, *, ip_version: int) -> int:
    """Bytes between a guest's packet and the outer packet that carries it, over IPv4 or IPv6 (4 or 6)."""
    if not network_type.tunneled:
        return 0
    return _IP_HEADER[ip_version] + _TUNNEL_HEADER[network_type] + _INNER_ETHERNET


def network_mtu_max(network_type: NetworkType, switch: OpaqueSwitch) -> int:
    """The largest MTU a network of this type may have on *switch*."""
    ip_version = ip_network(switch.vtep_pool).version if switch.vtep_pool else 4
    return switch.mtu - overhead(network_type, ip_version=ip_version)
