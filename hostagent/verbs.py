"""What can be asked over the agent's socket, and who answers: hooks at `claims`, commands at `show` and `endpoints`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hostagent.agent import Agent
from hostagent.control import HookRequest
from hostagent.drop_totals import DropTotals, with_ports
from hostagent.explain import explain
from hostagent.identity import Identity
from hostagent.looking import network_flows
from hostagent.realize.errors import RealizeError
from hostagent.show import counts_of, drops_of, flows_of, show_of, unread_of, vifs_of
from hostagent.state import State

__all__ = ["Verbs"]

_Answer = dict[str, Any]

_DROPS_S = 5.0  # for which metrics wait for switches: less than the command does for metrics


class Verbs:
    """Called with each checked request; its answer goes back as it is."""

    def __init__(self, agent: Agent, identity: Identity, state: State) -> None:
        self._agent = agent
        self._identity = identity
        self._state = state
        self._totals = DropTotals()
        self._counting = asyncio.Lock()  # an older reading after a newer one would count frames twice
        self._verbs: dict[str, Callable[[HookRequest], Awaitable[_Answer]]] = {
            "port-created": self._port_created,
            "port-deleted": self._port_deleted,
            "migrate-begin": self._migrate_begin,
            "vif-of": self._vif_of,
            "show": self._show,
            "vifs": self._vifs,
            "explain": self._explain,
            "flows": self._flows,
            "network-flows": self._network_flows,
            "drops": self._drops,
            "metrics": self._metrics,
            "endpoints": self._endpoints,
            "endpoint-attach": self._attach,
            "endpoint-detach": self._detach,
        }

    async def __call__(self, request: HookRequest) -> _Answer:
        return await self._verbs[request.verb](request)

    async def _port_created(self, request: HookRequest) -> _Answer:
        sentence = await self._agent.claims.port_created(request, or_dark=True)
        return {"ok": False, "sentence": sentence} if sentence else {"ok": True}

    async def _port_deleted(self, request: HookRequest) -> _Answer:
        self._agent.claims.port_deleted(request)
        return {"ok": True}

    async def _migrate_begin(self, request: HookRequest) -> _Answer:
        self._agent.claims.migrate_begin(request)
        return {"ok": True}

    async def _vif_of(self, request: HookRequest) -> _Answer:
        vif = await self._agent.lookup.vif_of_mac(request.words["network"], request.mac)
        return {"ok": True, "vif_uuid": str(vif or "")}

    async def _show(self, _request: HookRequest) -> _Answer:
        return {"ok": True, **show_of(self._agent, self._identity, self._state)}

    async def _vifs(self, _request: HookRequest) -> _Answer:
        return {"ok": True, "vifs": vifs_of(self._agent, self._state)}

    async def _explain(self, request: HookRequest) -> _Answer:
        agent = self._agent
        return {
            "ok": True,
            "explanations": explain(
                request.words["which"],
                desired=agent.desired(),
                statuses=agent.reporting.report.vifs,
                records=self._state.vifs,
                missing=agent.endpoints.missing,
                away=() if agent.sync.connected else (agent.sync.why_away,),
            ),
        }

    async def _flows(self, _request: HookRequest) -> _Answer:
        return {"ok": True, "flows": flows_of(self._agent)}

    async def _network_flows(self, request: HookRequest) -> _Answer:
        agent, words = self._agent, request.words
        try:
            found = await network_flows(agent.host, agent.desired(), which=words["network"], table=words["table"])
            return {"ok": True, "flows": found}
        except RealizeError as error:
            return {"ok": False, "sentence": error.sentence}

    async def _drops(self, _request: HookRequest) -> _Answer:
        if unread := unread_of(self._agent):  # a part would look like the whole
            return {"ok": False, "sentence": unread}
        try:
            return {"ok": True, "drops": await drops_of(self._agent)}
        except RealizeError as error:
            return {"ok": False, "sentence": error.sentence}

    async def _metrics(self, _request: HookRequest) -> _Answer:
        agent = self._agent
        shown = show_of(agent, self._identity, self._state)
        dropped = list[dict[str, Any]]()
        unread = unread_of(agent)
        try:
            async with asyncio.timeout(_DROPS_S), self._counting:
                if not unread:
                    dropped = self._totals.look(with_ports(await drops_of(agent), shown["vifs"]))
        except RealizeError as error:  # the rest is known all the same, and then most wanted
            unread = error.sentence
        except TimeoutError:
            unread = f"the switches did not say within {_DROPS_S:g} s what they have dropped"
        return {"ok": True, **shown, **counts_of(agent), "dropped": dropped, "drops_unread": unread}

    async def _endpoints(self, _request: HookRequest) -> _Answer:
        return {"ok": True, "endpoints": self._agent.endpoints.list()}

    async def _attach(self, request: HookRequest) -> _Answer:
        return await self._agent.endpoints.attach(request.words)

    async def _detach(self, request: HookRequest) -> _Answer:
        return await self._agent.endpoints.detach(request.words["which"])
