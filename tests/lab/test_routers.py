"""A guest that is a router, on real hosts: Linux neighbours keep it as their default router, however often they ask for
it, and let go of it when it says itself that it is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.labkit import Lab
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450}]
"""
VIF = "5e5e5e5e-0000-4000-8000-000000000002"
GUESTS = {"r": "h2", "near": "h2", "far": "h1"}
# One router advertisement, for half an hour, with the sender's MAC.
ADVERTISE = """
import socket, struct
mac = bytes.fromhex(open("/sys/class/net/eth0/address").read().strip().replace(":", ""))
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.sendto(struct.pack("!BBHBBHIIBB", 134, 0, 0, 64, 0, 1800, 0, 0, 1, 1) + mac, ("ff02::1%eth0", 0))
"""


def inside(lab: Lab, name: str, *command: str, check: bool = True) -> Any:
    return lab.exec(GUESTS[name], ["ip", "netns", "exec", name, *command], check=check)


def link_local(lab: Lab, name: str) -> str:
    """The link-local address of the guest, once it is sure of it."""
    words = ["ip", "-j", "-6", "address", "show", "dev", "eth0", "scope", "link", "-tentative"]
    found = [one for row in json.loads(inside(lab, name, *words).stdout) for one in row.get("addr_info", ())]
    return found[0]["local"] if found else ""


def has_default_route(lab: Lab, name: str, via: str) -> bool:
    return f"default via {via} " in inside(lab, name, "ip", "-6", "route", "show", "default").stdout


def probe(lab: Lab, name: str, router: str) -> bool:
    """Have the guest ask whether its router is still there (RFC 4861, 7.3); whether it heard an answer."""

    def heard() -> int:
        line = inside(lab, name, "nstat", "-asz", "Icmp6InNeighborAdvertisements").stdout.splitlines()[-1]
        return int(line.split()[1])

    before = heard()

    def answered() -> bool:
        inside(lab, name, "ping", "-c1", "-W1", f"{router}%eth0", check=False)  # to what is stale: asks a second later
        return heard() > before

    return within(10, answered)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A router on h2, a neighbour on each host; nobody has addresses defined, as it is where packets are forwarded."""
    with Lab(hosts=2, with_libvirt=False, with_vmctl=False, zones={"h1": "a", "h2": "a"}) as made:
        made.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        made.exec("mgr", ["netmgr", "port", "create", "r", "--network", "blue", "--allow", "router"])
        made.exec("mgr", ["netmgr", "port", "attach", "r", "--vif", VIF])
        for name, host in GUESTS.items():
            made.exec(host, ["ip", "netns", "add", name])
            target = ["r"] if name == "r" else ["--name", name]
            made.exec(host, ["hostagent", "port", "attach", *target, "--network", "blue", "--netns", name])
            for word in ("base_reachable_time_ms=1000", "delay_first_probe_time=1"):
                inside(made, name, "sysctl", "-q", "-w", f"net.ipv6.neigh.eth0.{word}")
        inside(made, "r", "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
        assert within(5, lambda: all(link_local(made, name) for name in GUESTS))
        inside(made, "r", "ping", "-c1", "-W1", f"{link_local(made, 'near')}%eth0")
        yield made


def advertised(lab: Lab, name: str) -> str:
    """The router's address, once the guest has its default route from it and the hosts know whose the address is."""
    router = link_local(lab, "r")
    assert within(5, lambda: router in lab.exec("mgr", ["netmgr", "mac", "list", "-o", "json"]).stdout)
    inside(lab, "r", "python3", "-c", ADVERTISE)
    assert within(5, lambda: has_default_route(lab, name, router))
    return router


@pytest.mark.parametrize("name", ["near", "far"])
def test_the_default_route_outlives_the_question_whether_the_router_is_there(lab: Lab, name: str) -> None:
    router = advertised(lab, name)
    assert probe(lab, name, router)
    assert has_default_route(lab, name, router)


@pytest.mark.parametrize("name", ["near", "far"])
def test_a_router_that_is_none_any_more_says_so_to_who_asks(lab: Lab, name: str) -> None:
    router = advertised(lab, name)
    inside(lab, "r", "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=0")
    try:
        assert probe(lab, name, router)
        assert within(5, lambda: not has_default_route(lab, name, router))
    finally:
        inside(lab, "r", "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
