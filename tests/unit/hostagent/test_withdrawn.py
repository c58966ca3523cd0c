"""A network withdrawn from this host: what runs goes on, nothing new is plugged, with the manager or without."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

from hostagent.claims import Claims
from hostagent.control import HookRequest
from hostagent.health import host_report
from hostagent.identity import Identity
from hostagent.names import switch_bridge
from hostagent.presence import SeenVif, unpark
from hostagent.state import State
from hostagent.sync_client import SyncClient
from hostagent.view import host_view
from netmgr.contract.types import HostConfig, Kind, Location, Object, Ref, Status, Withdrawal
from tests.support.hostagent_worlds import bare, desired, location, named, network, plug, port, settled, switch

NET, PORT = network(), port("web", 1)
HOST = named("h1")
FROM_ALL = Withdrawal(uuid=named("w*"), network_uuid=NET.uuid, reason="loop", by="anna", since="2026-01-02T03:04:05Z")
FROM_HERE = replace(FROM_ALL, uuid=named("w1"), host_uuid=HOST, reason="flaps")
OSW = switch_bridge(named("s1"))


# --- what is said ----------------------------------------------------------------------------------------------------


def test_withdrawn_network_is_in_maintenance_with_the_sentence_and_its_flows_stay() -> None:
    wanted = desired(switches=[switch()], networks=[NET], ports=[PORT], locations=[location(PORT, "h1")])
    observed = settled(wanted, plug(settled(wanted, bare()), OSW, "tap0", PORT.vif_uuid, 50))
    hidden = replace(wanted, withdrawals={NET.uuid: FROM_HERE})
    assert settled(hidden, observed) == observed  # nothing to do: what runs goes on
    report = host_report(desired=hidden, observed=observed, openflow_alive={OSW: True})
    (said,) = report.networks
    assert (said.status, said.health) == (Status.MAINTENANCE, 100)
    assert said.reasons == ("network n1 is withdrawn from host h1 by anna since 2026-01-02T03:04:05Z: flaps",)
    assert [vif.state.value for vif in report.vifs] == ["lit"]
    view = host_view(desired=hidden, report=report, in_sync=True, manager_connected=False, sync_age_s=9)
    assert view.networks[0].status == "maintenance"
    assert list(view.networks[0].reasons) == list(said.reasons)


def test_what_is_worse_than_withdrawn_is_said_too() -> None:
    wanted = desired(switches=[switch()], networks=[NET])
    hidden = replace(wanted, withdrawals={NET.uuid: FROM_ALL})
    (said,) = host_report(desired=hidden, observed=settled(wanted, bare()), openflow_alive={}).networks
    assert said.status is Status.DOWN
    assert "withdrawn from all hosts" in said.reasons[0]
    assert any("switch s1 is down" in reason for reason in said.reasons)


def test_on_a_withdrawn_network_a_parked_port_is_lit_only_if_it_is_already() -> None:
    parked = {PORT.uuid: location(PORT, "h1", parked=True)}
    seen = SeenVif(
        vif_uuid=named("vif web"),
        ovs_port="tap0",
        bridge=OSW,
        mac=PORT.mac,
        vm_uuid=None,
        network_uuid=None,
        plugged=True,
        ofport=5,
        external_ids={},
    )
    ports = {seen.vif_uuid: PORT.uuid}

    def after(vif: SeenVif, *hidden: UUID) -> bool:
        return unpark(parked, vifs=[vif], host=HOST, ports=ports, hidden=hidden)[PORT.uuid].parked

    assert after(seen) is False
    assert after(seen, NET.uuid) is True
    assert after(replace(seen, lit=True), NET.uuid) is False
    assert after(seen, uuid4()) is False


# --- what the hook is told -------------------------------------------------------------------------------------------


class Nobody:
    """Listens to a stream that is never opened."""

    def on_objects(self, changed: object) -> None: ...

    def on_revision(self, revision: int, *, initial: bool) -> None: ...

    def on_try_again(self) -> None: ...

    def on_trace(self, question: object) -> None: ...

    def on_connection(self, connected: bool) -> None: ...


def ask(directory: Path, where: Location | None, *withdrawals: Withdrawal, present: bool = False) -> str:
    """The hook's answer for the VIF of PORT on a host that was started without a manager."""

    async def run() -> str:
        state = State(directory / "state.db")
        objects = [NET, HostConfig(uuid=HOST, name="h1"), PORT, *withdrawals, *([where] if where else [])]
        state.take([Object(version=1, body=body) for body in objects], revision=1)
        state.close()
        state = State(directory / "state.db")  # as after a restart: it is on disk
        identity = Identity(host_uuid=HOST, host_name="h1", managers=("127.0.0.1:1",))
        sync = SyncClient(identity=identity, state=state, listener=Nobody(), boot_id="b", agent_version="0")

        async def realized(_network: UUID) -> str:
            return ""

        claims = Claims(host_uuid=HOST, state=state, sync=sync, realized=realized, changed=lambda: None)
        seen = SeenVif(
            vif_uuid=named("vif web"),
            ovs_port="tap0",
            bridge=OSW,
            mac=PORT.mac,
            vm_uuid=None,
            network_uuid=None,
            plugged=True,
            external_ids={},
        )
        claims.pursue((), [seen] if present else [])
        request = HookRequest(
            verb="port-created",
            network_uuid=NET.uuid,
            vif_uuid=PORT.vif_uuid,
            mac=PORT.mac,
            vm_uuid=uuid4(),
            vm_name="web",
        )
        answer = await claims.port_created(request)
        await claims.close()
        state.close()
        return answer

    return asyncio.run(run())


def test_power_on_of_the_recorded_holder_is_refused_without_the_manager_once_withdrawn(tmp_path: Path) -> None:
    for number, parked in enumerate((True, False)):
        where = location(PORT, "h1", parked=parked)
        (tmp_path / f"a{number}").mkdir()
        (tmp_path / f"b{number}").mkdir()
        assert ask(tmp_path / f"a{number}", where) == ""
        answer = ask(tmp_path / f"b{number}", where, FROM_ALL, FROM_HERE)
        for words in ("withdrawn from host h1 by anna", "flaps", "netmgr network restore n1", "another host"):
            assert words in answer


def test_vif_that_runs_here_or_is_coming_may_be_asked_for_again(tmp_path: Path) -> None:
    assert ask(tmp_path, location(PORT, "h1"), FROM_ALL, present=True) == ""
    (tmp_path / "other").mkdir()
    answer = ask(tmp_path / "other", location(PORT, "h2", incoming="h1"), FROM_ALL)
    assert "withdrawn" not in answer  # it is the manager's to say, and he is away
    assert "no manager reached" in answer


def test_withdrawal_from_another_network_or_taken_back_refuses_nothing(tmp_path: Path) -> None:
    assert ask(tmp_path, location(PORT, "h1", parked=True), replace(FROM_ALL, network_uuid=uuid4())) == ""
    state = State(tmp_path / "state.db")
    state.take([Object(version=3, body=FROM_HERE)])
    assert set(state.hidden()) >= {NET.uuid}
    state.take([], [Ref(kind=Kind.WITHDRAWAL, uuid=FROM_HERE.uuid)])
    assert NET.uuid not in state.hidden()
    state.close()


def test_of_two_withdrawals_the_one_that_names_this_host_is_told(tmp_path: Path) -> None:
    for order in ((FROM_ALL, FROM_HERE), (FROM_HERE, FROM_ALL)):
        directory = tmp_path / order[0].uuid.hex
        directory.mkdir()
        assert "flaps" in ask(directory, None, *order)
