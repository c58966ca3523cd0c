"""A port that a claim made goes with what was attached to it, at its holder's word and nobody else's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from netmgr import rules
from netmgr.contract.types import Kind, Location
from netmgr.model import PORT_HISTORY, HostRecord, NetmgrError, PortHistory
from netmgr.store import Store
from netmgr.sync import decisions
from tests.support.netmgr_worlds import BASE, H1, H2, PORT, held, uid, world_of

MADE = PortHistory(port_uuid=PORT.uuid, made_by=H1.uuid)


@pytest.mark.parametrize(
    ("found", "version"),
    [(held(H1), 7), (held(H1), 9), (held(H1, parked=True), 7), (held(H1, parked=True), 6)],
    ids=["held", "a backup was restored", "parked", "parked since"],
)
def test_holder_may_retire_a_port_that_a_claim_made(found: Location, version: int) -> None:
    rules.check_port_retirement(world_of(PORT, found, MADE), PORT, host=H1.uuid, version=version)


@pytest.mark.parametrize(
    ("found", "history", "host", "words"),
    [
        (held(H1), None, H1, "made by an operator or a CMS"),
        (held(H1), replace(MADE, made_by=None, vm_uuid=uid("vm")), H1, "made by an operator or a CMS"),
        (held(H2), MADE, H1, "not held by host h1"),  # it made the port, and another has it
        (held(H2, parked=True), MADE, H1, "not held by host h1"),
        (held(), MADE, H1, "not held by host h1"),
        (None, MADE, H1, "not held by host h1"),
        (held(H1, incoming=H2), MADE, H1, "on its way"),
        (held(H1, incoming=H2), MADE, H2, "not held by host h2"),
        (held(H1, version=8), MADE, H1, "claimed again since"),
    ],
)
def test_nobody_else_may_and_no_other_port_is(
    found: Location | None, history: PortHistory | None, host: HostRecord, words: str
) -> None:
    world = world_of(PORT, *([found] if found else []), *([history] if history else []))
    with pytest.raises(NetmgrError, match=words):
        rules.check_port_retirement(world, PORT, host=host.uuid, version=7)


def test_primary_of_a_shadow_stays() -> None:
    shadow = replace(PORT, uuid=uid("shadow"), name="standby", vif_uuid=None, shadow_of=PORT.uuid)
    with pytest.raises(NetmgrError, match="port standby"):
        rules.check_port_retirement(world_of(PORT, held(H1), MADE, shadow), PORT, host=H1.uuid, version=7)


def test_retired_port_is_gone_with_all_that_was_kept_of_it_and_asking_again_is_nothing(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/netmgr.db")
    with store.transaction() as tx:
        for row in (*BASE, PORT, held(H1), MADE):
            tx.put(row)
    revision = tx.revision
    decisions.retire(store, H2.uuid, port_uuid=PORT.uuid, version=7)
    assert store.changes(after=revision) == []
    for _ in range(2):
        decisions.retire(store, H1.uuid, port_uuid=PORT.uuid, version=7)
    gone = {(change.kind, change.uuid, change.row) for change in store.changes(after=revision)}
    assert gone == {(kind, PORT.uuid, None) for kind in (Kind.PORT, Kind.LOCATION, PORT_HISTORY)}
    store.close()
