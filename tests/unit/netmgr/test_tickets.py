"""Connections of a guest that moves: passed from its holder to the host that has the grant, and to nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

from netmgr.contract import codec
from netmgr.contract.types import TICKETS_MAX, Ticket, Tickets
from tests.support.netmgr_rig import HostEnd, eventually, manager
from tests.support.netmgr_worlds import H1, H2, H3, PORT, held, uid

ONE = Ticket(protocol=6, source="10.0.0.2", destination="10.0.0.1", source_port=40000, destination_port=80)


def of(*tickets: Ticket, port: object = PORT.uuid) -> Tickets:
    return Tickets(port_uuid=port, tickets=tickets)  # type: ignore[arg-type]


async def say(end: HostEnd, tickets: Tickets) -> None:
    await end.send(tickets=codec.encode(tickets))


def test_holder_s_word_reaches_the_incoming_host_and_nobody_else_s_does(tmp_path: Path) -> None:
    async def run() -> None:
        async with manager(tmp_path, PORT, held(H1, incoming=H2)) as rig:
            source, destination, other = [await rig.host(one).connect() for one in (H1, H2, H3)]
            await say(source, of(ONE))
            await destination.until(lambda: destination.tickets)
            assert destination.tickets == [of(ONE)]
            destination.tickets.clear()
            await say(destination, of(ONE))  # the incoming host has nothing to tell
            await say(other, of(ONE))
            await say(source, of(ONE, port=uid("no such port")))
            await say(source, of(*[ONE] * (TICKETS_MAX + 1)))
            await eventually(lambda: rig.hub.counts["tickets_refused"] == 4)
            assert rig.hub.counts["tickets_passed"] == 1
            assert not source.tickets
            assert not other.tickets
            rig.put(held(H1))  # the grant is over
            await eventually(lambda: rig.hub.world.locations[PORT.uuid].incoming_host is None)
            await say(source, of(ONE))
            await eventually(lambda: rig.hub.counts["tickets_refused"] == 5)
            await asyncio.sleep(0.05)
            assert not destination.tickets

    asyncio.run(run())


def test_word_for_a_host_that_is_away_is_refused_and_costs_the_holder_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with manager(tmp_path, PORT, held(H1, incoming=H2)) as rig:
            source = await rig.host(H1).connect()
            assert "h2, where it goes, is not connected" in rig.hub.pass_on(H1.uuid, of(ONE))
            await say(source, of(ONE))
            await eventually(lambda: rig.hub.counts["tickets_refused"] == 1)
            destination = await rig.host(H2).connect()
            await say(source, of(ONE))
            await destination.until(lambda: destination.tickets)

    asyncio.run(run())
