"""Shadow ports on a host: plugged and dark, unseen by the pipeline, lit when the manager exchanges the roles."""

from __future__ import annotations

from dataclasses import replace

from hostagent.flow import Match
from hostagent.flows import compile_flows
from hostagent.health import host_report
from hostagent.model import Observed, Phase
from hostagent.names import switch_bridge
from hostagent.pipeline.tables import Table
from hostagent.resolve import resolve
from hostagent.vifs import standing
from netmgr.contract.types import LogicalPort, VifState
from tests.support.hostagent_worlds import bare, desired, location, named, network, plug, port, settled, switch

OSW = switch_bridge(named("s1"))
PRIMARY = port("web", 1)
SHADOW = replace(port("standby", 1), shadow_of=PRIMARY.uuid)
LIT_BY_FAILOVER = replace(SHADOW, shadow_of=None)
DARK_BY_FAILOVER = replace(PRIMARY, shadow_of=SHADOW.uuid)


def world(*ports: tuple[LogicalPort, str]):
    """h1 with network n1 and ports with their holders; the locations of shadows carry no MAC, as the manager's do."""
    return desired(
        switches=[switch()],
        networks=[network()],
        ports=[one for one, _ in ports],
        locations=[replace(location(one, host), mac="" if one.shadow_of else one.mac) for one, host in ports],
    )


def there(wanted, *plugged: LogicalPort) -> Observed:
    observed = settled(replace(wanted, ports={}, locations={}), bare())
    for number, one in enumerate(plugged, 50):
        observed = plug(observed, OSW, f"tap{number}", one.vif_uuid, number)
    return observed


def flows(wanted, observed: Observed):
    intent = resolve(wanted, observed).switches[named("s1")]
    bridge = next(one for one in observed.bridges if one.name == OSW)
    return compile_flows(desired=wanted, intent=intent, bridge=bridge)


def entering(found) -> set[int]:
    """ofports whose frames are let in."""
    return {
        item.value
        for flow in found
        if flow.table == Table.CLASSIFY and flow.actions
        for item in flow.match
        if isinstance(item, Match) and item.field == "in_port" and item.value >= 50
    }


def test_shadow_is_dark_wherever_it_is_and_in_every_phase() -> None:
    for phase in Phase:
        for holder, incoming in (("h1", None), ("h2", "h1"), ("h2", None)):
            where = location(SHADOW, holder, incoming=incoming)
            state, why = standing(port=SHADOW, location=where, phase=phase, host=named("h1"), primary=PRIMARY)
            assert (state, why) == (VifState.DARK, "port standby is a shadow of port web; it stays dark until failover")


def test_host_of_a_shadow_has_no_flow_more_than_without_it_and_sends_to_the_primary() -> None:
    with_shadow = world((PRIMARY, "h2"), (SHADOW, "h1"))
    alone = world((PRIMARY, "h2"))
    observed = there(with_shadow, SHADOW)
    assert flows(with_shadow, observed) == flows(alone, observed)
    assert not entering(flows(with_shadow, observed))


def test_peer_takes_no_shadow_for_an_owner_of_the_mac_whichever_comes_first() -> None:
    for first, second in ((PRIMARY, SHADOW), (replace(PRIMARY, uuid=SHADOW.uuid), replace(SHADOW, uuid=PRIMARY.uuid))):
        second = replace(second, shadow_of=first.uuid)
        with_shadow, alone = world((first, "h2"), (second, "h3")), world((first, "h2"))
        observed = there(with_shadow)
        assert flows(with_shadow, observed) == flows(alone, observed)
        unknown = replace(with_shadow, ports={first.uuid: first})  # only the location has come
        assert flows(unknown, observed) == flows(alone, observed)


def test_failover_lights_the_shadow_and_darkens_the_primary() -> None:
    before = world((PRIMARY, "h1"), (SHADOW, "h1"))
    after = world((DARK_BY_FAILOVER, "h1"), (LIT_BY_FAILOVER, "h1"))
    observed = there(before, PRIMARY, SHADOW)
    assert entering(flows(before, observed)) == {50}
    assert entering(flows(after, observed)) == {51}


def test_failover_turns_a_peers_path_to_the_new_holder() -> None:
    before = world((PRIMARY, "h2"), (SHADOW, "h3"))
    after = world((DARK_BY_FAILOVER, "h2"), (LIT_BY_FAILOVER, "h3"))
    observed = there(before)
    assert flows(after, observed) == flows(world((LIT_BY_FAILOVER, "h3")), observed)
    assert flows(after, observed) != flows(before, observed)


def test_report_says_whose_shadow_it_is() -> None:
    wanted = world((PRIMARY, "h2"), (SHADOW, "h1"))
    observed = settled(wanted, there(wanted, SHADOW))
    (said,) = host_report(desired=wanted, observed=observed, openflow_alive={OSW: True}).vifs
    assert (said.state, said.port_uuid) == (VifState.DARK, SHADOW.uuid)
    assert "shadow of port web" in said.reason
