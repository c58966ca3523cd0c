"""Security groups: what rules may say, who is a member, who uses a group; over REST, the command line and documents."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from netmgr import service
from netmgr.model import NetmgrError
from netmgr.service.document import load_document
from netmgr.service.group_views import group_view
from netmgr.service.port_views import places_of, port_view
from netmgr.service.specs import GroupPatch, GroupSpec, NetworkSpec, PortPatch, PortSpec, RuleSpec, SwitchSpec, ZoneSpec
from netmgr.store import Store
from tests.support.netmgr_api import Api
from tests.support.netmgr_cli import Cli

HTTP = {"direction": "ingress", "protocol": "tcp", "port_min": 80}


@pytest.fixture
def store(ready_url: str) -> object:
    """Here on both kinds of database, with network blue and its port web1."""
    opened = Store.open(ready_url)
    service.create_zone(opened, ZoneSpec(name="a"))
    service.create_switch(opened, SwitchSpec(name="s", zones=["a"], vtep_pool="10.200.0.0/24", mtu=1650))
    service.create_network(opened, NetworkSpec(name="blue", zone="a"))
    service.create_port(opened, PortSpec(name="web1", network="blue", ips=["10.1.0.5", "fd00::5"]))
    yield opened
    opened.close()


def group(store: Store, name: str, *rules: dict[str, Any], stateful: bool = True) -> Any:
    return service.create_group(store, GroupSpec(name=name, stateful=stateful, rules=[RuleSpec(**r) for r in rules]))


def members(store: Store, name: str) -> tuple[str, ...]:
    from netmgr.service.lookup import find_group
    from netmgr.span import security_group

    with store.read() as world:
        return security_group(world, find_group(world, name)).members


def version(store: Store, name: str) -> int:
    with store.read() as world:
        return world.versions["security_group", world.unique["name", "security_group", name]]


def test_members_follow_the_ports_and_each_change_is_one_of_the_group(store: Store) -> None:
    group(store, "web")
    versions = [version(store, "web")]
    for wanted, change in (
        (("10.1.0.5", "fd00::5"), PortPatch(security_groups=["web"])),
        (("10.1.0.6",), PortPatch(ips=["10.1.0.6"])),
        ((), PortPatch(security_groups=[])),
    ):
        service.set_port(store, "web1", change)
        assert members(store, "web") == wanted
        versions.append(version(store, "web"))
    assert versions == sorted(set(versions)), "each change of the members is a new version"
    service.set_port(store, "web1", PortPatch(admin_up=False))
    assert version(store, "web") == versions[-1], "what does not concern the members is no change of the group"


def test_removed_port_is_no_member(store: Store) -> None:
    group(store, "web")
    service.create_port(store, PortSpec(name="web2", network="blue", ips=["10.1.0.7"], security_groups=["web"]))
    before = version(store, "web")
    service.delete_port(store, "web2")
    assert members(store, "web") == ()
    assert version(store, "web") > before


def test_group_survives_a_restart_with_its_rules(store: Store) -> None:
    made = group(store, "web", HTTP, {"direction": "egress", "remote_group": "web"})
    service.set_port(store, "web1", PortPatch(security_groups=["web"]))
    again = Store.open(store.url)
    with again.read() as world:
        assert world.groups[made.uuid].rules == made.rules
        assert world.ports_by_group[made.uuid]
        assert world.groups_referring[made.uuid] == {made.uuid}
    again.close()


BAD = {
    "protocol": ({"protocol": "gre"}, "protocol must be any, tcp, udp"),
    "number": ({"protocol": "256"}, "a number from 0 to 255"),
    "ports of icmp": ({"protocol": "icmp", "port_min": 1}, "only tcp and udp have ports"),
    "ports upside down": ({"protocol": "tcp", "port_min": 90, "port_max": 80}, "the lower one first"),
    "port too big": ({"protocol": "tcp", "port_min": 65536}, "1 to 65535"),
    "negative port": ({"protocol": "tcp", "port_min": -1}, "1 to 65535"),
    "type of tcp": ({"protocol": "tcp", "icmp_type": 8}, "only icmp and icmpv6 have a type"),
    "code alone": ({"protocol": "icmp", "icmp_code": 0}, "without a type"),
    "type too big": ({"protocol": "icmp", "icmp_type": 256}, "0 to 255"),
    "family of icmp": ({"protocol": "icmp", "ethertype": "ipv6"}, "a protocol of ipv4"),
    "family of cidr": ({"remote_cidr": "10.0.0.0/8", "ethertype": "ipv6"}, "not of ipv6"),
    "host bits": ({"remote_cidr": "10.0.0.5/24"}, "write 10.0.0.0/24"),
    "no cidr": ({"remote_cidr": "tomorrow"}, "is no CIDR"),
    "both ends": ({"remote_cidr": "10.0.0.0/8", "remote_group": "web"}, "make two rules"),
    "unknown group": ({"remote_group": "wbe"}, "did you mean web?"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rule_is_refused_whole(store: Store, name: str) -> None:
    rule, sentence = BAD[name]
    made = group(store, "web", HTTP)
    with pytest.raises(NetmgrError, match=sentence.replace("?", r"\?")):
        service.add_rule(store, "web", RuleSpec(direction="ingress", **rule))
    with store.read() as world:
        assert world.groups[made.uuid] == made


def test_group_in_use_is_not_removed_and_its_users_are_named(store: Store) -> None:
    group(store, "web")
    group(store, "db", {"direction": "ingress", "remote_group": "web"})
    service.set_port(store, "web1", PortPatch(security_groups=["web"]))
    with pytest.raises(NetmgrError, match="a rule of group db, port web1 of network blue"):
        service.delete_group(store, "web")
    service.delete_group(store, "db")
    service.set_port(store, "web1", PortPatch(security_groups=[]))
    service.delete_group(store, "web")


def test_groups_of_one_port_are_of_one_kind(store: Store) -> None:
    group(store, "web")
    group(store, "fast", stateful=False)
    with pytest.raises(NetmgrError, match=r"stateful groups .web. and stateless ones .fast."):
        service.set_port(store, "web1", PortPatch(security_groups=["web", "fast"]))
    service.set_group(store, "fast", GroupPatch(stateful=True))
    service.set_port(store, "web1", PortPatch(security_groups=["web", "fast"]))
    with pytest.raises(NetmgrError, match="at once"):
        service.set_group(store, "fast", GroupPatch(stateful=False))


def test_shadow_has_the_groups_of_its_primary(store: Store) -> None:
    group(store, "web")
    service.set_port(store, "web1", PortPatch(security_groups=["web"]))
    made = service.create_port(store, PortSpec(name="standby", network="blue", shadow_of="web1"))
    assert len(made.security_groups) == 1
    service.set_port(store, "web1", PortPatch(security_groups=[]))
    with store.read() as world:
        assert world.ports[made.uuid].security_groups == ()


def test_removed_rule_must_be_there(store: Store) -> None:
    group(store, "web", HTTP)
    with pytest.raises(NetmgrError, match=r"has no rule .* it has: ingress ipv4 tcp 80 from any"):
        service.remove_rule(store, "web", RuleSpec(**{**HTTP, "port_min": 81}))
    assert service.remove_rule(store, "web", RuleSpec(**HTTP)).rules == ()


DOCUMENT = b"""
groups:
  - name: web
    rules:
      - {direction: ingress, protocol: tcp, port_min: 80}
      - {direction: egress, remote_group: db}
  - name: db
    rules: [{direction: ingress, protocol: tcp, port_min: 5432, remote_group: web}]
ports: [{name: web1, network: blue, security_groups: [web]}]
"""


def test_document_makes_groups_that_refer_to_each_other_and_changes_nothing_twice(store: Store) -> None:
    document = load_document(DOCUMENT)
    done = service.apply(store, document, acked={})
    assert [(a.verb, a.kind, a.name) for a in done.actions] == [
        ("create", "group", "web"),
        ("create", "group", "db"),
        ("set", "port", "web1"),
    ]
    assert not service.apply(store, document, acked={}).changes
    pruned = service.apply(store, load_document(b"groups: []\nports: []"), acked={}, prune=True)
    assert [(a.verb, a.name) for a in pruned.actions] == [("delete", "web1"), ("delete", "web"), ("delete", "db")]


@pytest.fixture
def netmgr(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line over a manager with network blue."""
    cli = Cli(api, monkeypatch, capsys)
    cli.ok("zone", "create", "a")
    cli.ok("switch", "create", "s", "--zone", "a", "--vtep-pool", "10.200.0.0/24", "--mtu", "1650")
    cli.ok("network", "create", "blue", "--zone", "a")
    return cli


def test_life_of_a_group_on_the_command_line(netmgr: Cli) -> None:
    netmgr.ok("group", "create", "web")
    rule = ("--ingress", "--protocol", "tcp", "--port", "8000-8080", "--cidr", "10.0.0.0/8")
    shown = netmgr.ok("group", "rule", "add", "web", *rule, "-o", "json").json()
    assert shown["allows"] == ["ingress ipv4 tcp 8000-8080 from 10.0.0.0/8"]
    netmgr.ok("group", "rule", "add", "web", "--egress", "--protocol", "icmp")
    table = netmgr.ok("group", "show", "web").out
    assert "8080" in table[table.index("rules:") :], "columns are those of all rules, not of the first"
    netmgr.ok("group", "rule", "remove", "web", "--egress", "--protocol", "icmp")
    vif = str(uuid4())
    port = netmgr.ok(
        "port", "create", "web1", "--network", "blue", "--ip", "10.1.0.5", "--vif", vif, "--group", "web", "-o", "json"
    ).json()
    assert port["security_groups"] == ["web"]
    shown = netmgr.ok("group", "show", "web", "-o", "json").json()
    assert (shown["members"], shown["ports"]) == (["10.1.0.5"], ["blue/web1"])
    netmgr.ok("group", "rule", "add", "web", "--ingress", "--remote-group", "web")
    netmgr.ok("port", "create", "web2", "--network", "blue", "--group", "web")
    for words in (("port", "show", "blue/web2"), ("group", "show", "web")):
        assert "netmgr port set blue/web2 --ip ADDRESS" in netmgr.ok(*words).out
        assert len(netmgr.ok(*words, "-o", "json").json()["warnings"]) == 1
    netmgr.ok("port", "delete", "blue/web2")
    netmgr.ok("group", "rule", "remove", "web", "--ingress", "--remote-group", "web")
    assert netmgr.ok("port", "set", "web1", "--no-groups", "-o", "json").json()["security_groups"] == []
    assert netmgr.ok("group", "rule", "remove", "web", *rule, "-o", "json").json()["allows"] == []
    netmgr.ok("group", "delete", "web")
    assert netmgr.ok("group", "list", "-o", "json").json() == []


def test_port_that_rules_mean_but_cannot_meet_is_told_with_what_to_do(store: Store) -> None:
    def warned() -> tuple[list[str], list[str]]:
        with store.read() as world:
            port = world.ports[bare.uuid]
            return port_view(world, port, places_of({}))["warnings"], group_view(world, world.groups[web.uuid])[
                "warnings"
            ]

    web = group(store, "web")
    bare = service.create_port(store, PortSpec(name="web2", network="blue", security_groups=["web"]))
    service.set_port(store, "web1", PortPatch(security_groups=["web"]))
    assert warned() == ([], []), "no rule speaks of the group"
    group(store, "db", {"direction": "ingress", "remote_group": "web"})
    told = (
        "port blue/web2 of group web has no defined addresses: rules of group db that name web as the other end never "
        "match it; define them: netmgr port set blue/web2 --ip ADDRESS"
    )
    assert warned() == ([told], [told])
    service.add_rule(store, "web", RuleSpec(direction="egress", remote_group="web"))
    assert "rules of groups db, web that name web" in warned()[0][0]
    service.set_port(store, "web2", PortPatch(ips=["10.1.0.6"]))
    assert warned() == ([], [])


def test_shadow_that_no_rule_can_meet_says_where_addresses_are_defined(store: Store) -> None:
    group(store, "web", {"direction": "ingress", "remote_group": "web"})
    service.create_port(store, PortSpec(name="web2", network="blue", security_groups=["web"]))
    made = service.create_port(store, PortSpec(name="web2b", network="blue", shadow_of="blue/web2"))
    with store.read() as world:
        (said,) = port_view(world, world.ports[made.uuid], places_of({}))["warnings"]
    assert said.startswith("port blue/web2b of group web")
    assert said.endswith("netmgr port set blue/web2 --ip ADDRESS")


def test_many_ports_that_no_rule_can_meet_are_counted(store: Store) -> None:
    web = group(store, "web", {"direction": "ingress", "remote_group": "web"})
    for number in range(7):
        service.create_port(store, PortSpec(name=f"bare{number}", network="blue", security_groups=["web"]))
    with store.read() as world:
        said = group_view(world, world.groups[web.uuid])["warnings"]
    assert [one.split()[1] for one in said[:5]] == [f"blue/bare{number}" for number in range(5)]
    assert said[5:] == ["2 more ports of the group have no defined addresses either"]
