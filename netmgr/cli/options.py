"""What the resources' commands take and show: one description a kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

__all__ = ["RESOURCE_OPTIONS", "ResourceOptions", "Seconds"]

Decorator = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceOptions:
    """One kind of resource on the command line. Option names are those of the API's fields."""

    kind: str
    path: str
    help: str
    columns: tuple[str, ...]
    wide_columns: tuple[str, ...] = ()  # what -o wide shows besides
    set_help: str
    delete_help: str
    create_help: str = ""  # empty: not created here
    create_options: tuple[Decorator, ...] = ()
    set_options: tuple[Decorator, ...] = ()
    waits: bool = True


class Seconds(click.ParamType):  # type: ignore[type-arg]
    """A duration such as 90s, 30m, 1h, 2d, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        found = re.fullmatch(r"(\d{1,9})([smhd]?)", str(value))
        if found is None:
            self.fail(f"{value!r} is no duration; write 90s, 30m, 1h or 2d", param, context)
        return int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


class Shares(click.ParamType):  # type: ignore[type-arg]
    """Traffic classes as 60/30/10 or 60/30/10@10000."""

    name = "shares"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> dict[str, int]:
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})/(\d{1,9})(?:@(\d{1,9}))?", str(value))
        if found is None:
            self.fail(f"{value!r} is no list of shares; write 60/30/10 or 60/30/10@10000", param, context)
        names = ("tenant_percent", "control_percent", "management_percent", "link_mbps")
        return dict(zip(names, (int(number or 0) for number in found.groups()), strict=True))


def _zones(*, required: bool = False) -> Decorator:
    help = "Transport zone, by name or UUID; may be repeated."
    return click.option("--zone", "zones", multiple=True, required=required, help=help)


_PNICS = click.option(
    "--pnic",
    "pnic_globs",
    multiple=True,
    metavar="GLOB",
    help="PNICs that carry it, by name; may be repeated.  [default: *]",
)
_SWITCH_MTU = click.option("--mtu", type=int, help="Largest underlay packet in bytes, 1280 to 9216.  [default: 1600]")
_TEAMING = click.option(
    "--teaming",
    type=click.Choice(["single", "active-backup", "balance", "lacp"]),
    help="How several PNICs share it; lacp needs a channel on the physical switch.  [default: single]",
)
_LIMITS = (
    click.option("--egress-kbps", type=int, help="Most that its VIF may send, in kbit/s; 0: no limit."),
    click.option("--ingress-kbps", type=int, help="Most that is delivered to its VIF, in kbit/s; 0: no limit."),
)
_TRAFFIC_CLASSES = click.option(
    "--traffic-classes",
    type=Shares(),
    metavar="T/C/M[@MBPS]",
    help="Shares of a PNIC in percent that guests, control and management are sure of: 60/30/10, or 60/30/10@10000 "
    "to say its speed too; 0/0/0: nothing is shaped.",
)
_ATTACH_MODE = click.option(
    "--attach-mode", type=click.Choice(["auto", "manual"]), help="Whether ports are made for unknown VIFs that plug in."
)
_NETWORK_MTU = click.option("--mtu", type=int, help="Largest guest packet in bytes.  [default: what the switch leaves]")
_SUBNETS = click.option("--subnet", "subnets", multiple=True, metavar="CIDR", help="In use on it; may be repeated.")
_IPS = click.option("--ip", "ips", multiple=True, help="Address its MAC may use; may be repeated; none allows any.")
_ALLOW = click.option(
    "--allow",
    type=click.Choice(["dhcp-server", "nested", "router"]),
    multiple=True,
    help="What its guest may say that no other may; may be repeated. nested: frames of further MACs; they are learned."
    " router: also packets of other ports, if it has no addresses defined.",
)


class _NestedMac(click.ParamType[dict[str, Any]]):
    """MAC[,ADDRESS…] as the API has it."""

    name = "MAC[,IP…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        mac, *ips = str(value).split(",")
        return {"mac": mac, "ips": ips}


_NESTED = click.option(
    "--nested-mac",
    "nested",
    type=_NestedMac(),
    multiple=True,
    help="A further MAC behind its VIF, and the addresses it may use; may be repeated; without addresses, any.",
)
_GROUPS = click.option(
    "--group",
    "security_groups",
    multiple=True,
    help="Security group, by name or UUID; may be repeated.",
)
_STATEFUL = click.option(
    "--stateful/--stateless", default=None, help="Whether answers to what is allowed pass too.  [default: stateful]"
)
_MAC = click.option("--mac", help="Its own source MAC.  [default: made of its UUID]")

RESOURCE_OPTIONS = (
    ResourceOptions(
        kind="zone",
        path="zones",
        help="Transport zones: sets of hosts that networks may span.",
        columns=("name", "kind", "switch", "hosts", "uuid"),
        create_help="Create a transport zone.\n\n\b\n  netmgr zone create a\n  netmgr zone create v --kind vlan",
        create_options=(
            click.option(
                "--kind",
                type=click.Choice(["overlay", "vlan"]),
                help="Networks in tunnels, or on VLANs of the PNICs.  [default: overlay]",
            ),
        ),
        set_help="Rename a zone.\n\n\b\n  netmgr zone set a --name rack-a",
        delete_help="Delete zones. Refused while switches, networks or hosts are in them; they are named.",
        waits=False,
    ),
    ResourceOptions(
        kind="switch",
        path="switches",
        help="Opaque switches: on every host of their zones, one bridge.",
        columns=("name", "zone", "status", "health", "mtu", "vtep_pool", "pnic_globs", "reasons", "uuid"),
        create_help=(
            "Create an opaque switch. Its hosts get a VTEP address each from the pool.\n\n\b\n"
            "  netmgr switch create sw-a --zone a --vtep-pool 10.200.0.0/24 --pnic 'eth*' --mtu 1650\n"
            "  netmgr switch create sw-v --zone v --pnic 'eth*' --mtu 1500          for a zone of kind vlan"
        ),
        create_options=(
            _zones(required=True),
            click.option(
                "--vtep-pool", metavar="CIDR", help="Addresses for VTEPs, IPv4 or IPv6; zones of kind vlan need none."
            ),
            _PNICS,
            _SWITCH_MTU,
            _TEAMING,
            _TRAFFIC_CLASSES,
        ),
        set_help=(
            "Change a switch. Lists are replaced whole.\n\n\b\n  netmgr switch set sw-a --mtu 9000 --wait realized"
        ),
        set_options=(
            _zones(),
            click.option("--vtep-pool", metavar="CIDR", help="Hosts outside of it get new addresses."),
            _PNICS,
            _SWITCH_MTU,
            _TEAMING,
            _TRAFFIC_CLASSES,
        ),
        delete_help="Delete switches. Refused while networks are on them; they are named.",
    ),
    ResourceOptions(
        kind="network",
        path="networks",
        help="Opaque networks: virtual layer 2s, each on all hosts of a zone.",
        columns=("name", "type", "zone", "segment_id", "mtu", "state", "status", "health", "ports", "reasons", "uuid"),
        create_help=(
            "Create an opaque network.\n\n\b\n"
            "  netmgr network create blue --zone a --subnet 10.10.0.0/24 --wait realized --timeout 10\n"
            "  netmgr network create office --zone v --segment-id 100              on VLAN 100, in a zone of kind vlan"
        ),
        create_options=(
            click.option("--zone", required=True, help="Transport zone it spans, by name or UUID."),
            click.option(
                "--type",
                type=click.Choice(["vxlan", "geneve", "nvgre", "vlan"]),
                help="vlan in a zone of kind vlan, else a tunnel.  [default: vlan there, else vxlan]",
            ),
            click.option(
                "--segment-id",
                type=int,
                help="VNI or VSID, 1 to 16777215; VLAN, 1 to 4094.  [default: the lowest free, of VLANs from 2]",
            ),
            _ATTACH_MODE,
            _NETWORK_MTU,
            _SUBNETS,
        ),
        set_help="Change a network. Lists are replaced whole.\n\n\b\n  netmgr network set blue --mtu 1400",
        set_options=(
            _ATTACH_MODE,
            _NETWORK_MTU,
            _SUBNETS,
            click.option("--no-subnets", is_flag=True, help="Take all subnets off."),
        ),
        delete_help="Delete networks. Refused while VIFs are attached to their ports; they are named.",
    ),
    ResourceOptions(
        kind="host",
        path="hosts",
        help="Hosts. They enrol themselves with a token: see `netmgr host token`.",
        columns=("name", "zones", "connected", "in_sync", "status", "health", "vteps", "reasons", "uuid"),
        wide_columns=("agent_version", "since"),
        set_help=(
            "Rename a host or change its zones, which are replaced whole.\n\n\b\n"
            "  netmgr host set h1 --zone a --zone b --wait realized"
        ),
        set_options=(_zones(), click.option("--no-zones", is_flag=True, help="Take it out of all zones.")),
        delete_help=(
            "Forget hosts; their certificates open nothing any more. Refused while they hold ports of running VMs."
        ),
    ),
    ResourceOptions(
        kind="port",
        path="ports",
        help="Logical ports: where VIFs attach to networks. NAME, or NETWORK/NAME where several have it.",
        columns=("name", "network", "mac", "ips", "vif_uuid", "host", "incoming_host", "parked", "vif_state", "uuid"),
        wide_columns=(
            "location",
            "made_by",
            "location_version",
            "vtep",
            "incoming_vtep",
            "admin_up",
            "allow",
            "nested",
            "egress_kbps",
            "ingress_kbps",
            "security_groups",
            "shadow_of",
            "shadows",
            "parent",
            "tag",
            "ovs_port",
            "vm_uuid",
            "vif_reason",
            "incoming_state",
            "conflicts",
        ),
        create_help=(
            "Create a port. In networks of attach mode auto, ports also come by themselves.\n\n\b\n"
            "  netmgr port create web1 --network blue --ip 10.10.0.11 --vif 0f6dbd3f-9c5b-4c0e-a0f7-52f6a4f2b0c1\n"
            "  netmgr port create web1-db --network green --parent blue/web1 --tag 10 --ip 10.20.0.11\n"
            "  netmgr port create web1-standby --shadow-of blue/web1 --vif 5b1f3a52-64d3-4b39-8a3e-6f3f8c1f9b10"
        ),
        create_options=(
            click.option("--network", help="By name or UUID; needed, but for a shadow."),
            click.option(
                "--shadow-of",
                metavar="PORT",
                help="Make it a shadow of this port: same MAC, addresses and state, dark until `netmgr port failover`.",
            ),
            click.option("--vif", "vif_uuid", metavar="UUID", help="VIF to attach."),
            click.option(
                "--parent",
                metavar="PORT",
                help="Make it a sub-port of this port (NETWORK/PORT): its frames are those of its VIF that have --tag.",
            ),
            click.option("--tag", type=int, help="VLAN id of a sub-port's frames on the parent's VIF, 1 to 4094."),
            _MAC,
            _IPS,
            _ALLOW,
            _NESTED,
            *_LIMITS,
            _GROUPS,
            click.option("--down/--up", "admin_down", default=None, help="Keep it dark."),
        ),
        set_help="Change a port. Lists are replaced whole.\n\n\b\n  netmgr port set blue/web1 --down",
        set_options=(
            _MAC,
            _IPS,
            click.option("--no-ips", is_flag=True, help="Allow any address."),
            _ALLOW,
            click.option("--no-allow", is_flag=True, help="Allow it what any guest may say, no more."),
            _NESTED,
            click.option("--no-nested", is_flag=True, help="Define no further MACs for it."),
            *_LIMITS,
            _GROUPS,
            click.option("--tag", type=int, help="VLAN id of a sub-port's frames on its parent's VIF."),
            click.option("--no-groups", "no_security_groups", is_flag=True, help="Take all security groups off."),
            click.option("--down/--up", "admin_down", default=None, help="Keep it dark, or not."),
        ),
        delete_help="Delete ports. Refused while a host holds them for a running VM.",
        waits=False,
    ),
    ResourceOptions(
        kind="group",
        path="groups",
        help="Security groups: what their ports may send and receive.",
        columns=("name", "stateful", "allows", "ports", "uuid"),
        wide_columns=("members", "referred_to_by"),
        create_help=(
            "Create a security group. Without rules it allows nothing: see `netmgr group rule add`.\n\n\b\n"
            "  netmgr group create web\n"
            "  netmgr group rule add web --ingress --protocol tcp --port 80\n"
            "  netmgr port set blue/web1 --group web"
        ),
        create_options=(_STATEFUL,),
        set_help="Change a group.\n\n\b\n  netmgr group set web --stateless",
        set_options=(_STATEFUL,),
        delete_help="Delete groups. Refused while ports have them or rules of others refer to them; they are named.",
    ),
)
