"""Claims: a VIF may be plugged here only with the manager's grant, or where this host is the recorded holder.

Theory of operation. libvirt's hook asks before the tap exists, and waits: the manager's answer is put on disk, the
network's realization is awaited, then the hook is let go. A VIF that appears without a hook (an endpoint that nobody
announced, a guest that ran before this host joined) is claimed from the loop, again and again with growing pauses; VIFs
that are met together, as when the host starts, are claimed together. Without a manager this host trusts its own record:
a VIF it holds may start; one that it does not hold may not, because nobody else could say whether it runs elsewhere;
and a migration in is always asked for, since its guest does run elsewhere. On a network that is withdrawn from this
host nothing new is plugged, which this host knows by itself.

A guest on a network that takes only ports made for it may start before its port is made: the manager says of such a VIF
that it may be plugged dark. It is reported, claimed again from the loop, and lit once its port is attached.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from hostagent.control import HookRequest
from hostagent.names import is_tap_of
from hostagent.presence import SeenVif
from hostagent.realize.early_taps import EarlyTaps
from hostagent.state import State, StateError, VifRecord
from hostagent.sync_client import Grant, ManagerAway, Refused, SyncClient
from netmgr.contract.types import CLAIMS_MAX, Claim, ClaimIntent, LogicalPort, OpaqueNetwork, why_withdrawn

__all__ = ["Claims"]

log = structlog.get_logger(__name__)

CLAIM_DEADLINE_S = 5.0
TAP_GRACE_S = 60.0  # from a grant to its tap: libvirt makes disks and huge pages ready in between
NOTE_LIFE_S = 600.0  # of a migration that libvirt announced
UNCLAIMED_S = 60.0  # of one whose guest has claimed nothing yet: libvirt asks for its ports next
_RETRY_S_MIN, _RETRY_S_MAX = 1.0, 30.0


@dataclass(slots=True, kw_only=True)
class _Retry:
    """A claim that was refused or not answered: how often, and when it is due again (monotonic)."""

    attempts: int = 0
    at: float = 0.0


class Claims:
    """Claims of one host. `changed` is called when the loop should look again."""

    def __init__(
        self,
        *,
        host_uuid: UUID,
        state: State,
        sync: SyncClient,
        realized: Callable[[UUID], Awaitable[str]],
        changed: Callable[[], None],
    ) -> None:
        self._host_uuid = host_uuid
        self._state = state
        self._sync = sync
        self._realized = realized
        self._changed = changed
        self.granted_until: dict[UUID, float] = {}
        """By VIF: until when (monotonic) a granted claim waits for its tap."""
        self.refusals: dict[UUID, str] = {}
        """By VIF: why it was not granted, as last heard."""
        self._dark_until: dict[UUID, float] = {}  # VIF -> until when its tap is waited for: it has no port yet
        self._asking: dict[UUID, UUID | None] = {}  # VIF -> network, while a claim is under way
        self._retries: dict[UUID, _Retry] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._present: frozenset[UUID] | None = None  # VIFs plugged here; None before the first look
        self._taps = EarlyTaps(self._awaits)

    @property
    def asking(self) -> bool:
        """True while a claim is under way."""
        return bool(self._asking)

    def networks(self) -> tuple[UUID, ...]:
        """Networks of VIFs whose claim is under way, or granted and waiting for the tap."""
        now = time.monotonic()
        waiting = [vif for vif, until in self.granted_until.items() if until > now]
        ports = [
            self._state.ports.get(self._state.port_by_vif[vif]) for vif in waiting if vif in self._state.port_by_vif
        ]
        asked = [network for network in self._asking.values() if network is not None]
        return (*asked, *(port.network_uuid for port in ports if port is not None))

    # --- hooks -----------------------------------------------------------------------------------------------------

    async def port_created(self, request: HookRequest, *, or_dark: bool = False) -> str:
        """Empty when the VIF may be plugged; else the sentence for the user. *or_dark*: it may before it has a port."""
        assert request.network_uuid is not None
        assert request.vif_uuid is not None
        network = self._state.networks.get(request.network_uuid)
        if network is None:
            self._aborted(request)
            return (
                f"opaque network {request.network_uuid} is not carried by this host any more; see `hostagent show` for"
                " those that are, or add the host to the network's transport zone"
            )
        vif = request.vif_uuid
        hidden = self._hidden(network, vif)
        if hidden:
            log.warning("claim refused", vif=str(vif), vm=request.vm_name, network=network.name, reason=hidden)
            self._aborted(request)
            return hidden
        self._asking[vif] = network.uuid
        self._changed()
        self._taps.watch()
        try:
            try:
                self._granted(request, await self._grant(request, network.name))
            except Refused as error:
                if not (or_dark and error.dark):
                    raise
                log.warning(
                    "claim refused, the VIF is let in dark", vif=str(vif), vm=request.vm_name, reason=str(error)
                )
                self._dark_until[vif] = time.monotonic() + TAP_GRACE_S
                self._remember(request, None, network.uuid, request.mac)
            sentence = await self._realized(network.uuid)
            await self._state.saved()  # a guest that started must find its port without a manager, after any crash
        except (Refused, ManagerAway, StateError) as error:
            log.warning("claim refused", vif=str(vif), vm=request.vm_name, network=network.name, reason=str(error))
            self._aborted(request)
            return f"network {network.name}: {error}"
        finally:
            self._asking.pop(vif, None)
        if sentence:
            self.granted_until.pop(vif, None)
            self._aborted(request)
            return f"network {network.name} is not realized on this host: {sentence}"
        return ""

    def port_deleted(self, request: HookRequest) -> None:
        """libvirt let go of the VIF: its grant waits for no tap any more, and its guest, if it was coming, is not."""
        self._aborted(request)
        if request.vif_uuid is not None:
            self.let_go(request.vif_uuid)

    def let_go(self, vif_uuid: UUID) -> None:
        """No tap is to be waited for any more."""
        self.granted_until.pop(vif_uuid, None)
        self._dark_until.pop(vif_uuid, None)
        self._changed()

    def libvirt_is_back(self, active: Collection[UUID], *, away_since: float) -> None:
        """libvirtd was away from *away_since* (monotonic) on and has the domains *active* now.

        A start or migration that it was in the middle of died with it, perhaps before the tap was made. No tap is to be
        waited for then: a port that stays granted to this host can't be moved elsewhere.
        """
        for vif_uuid, until in list(self.granted_until.items()):
            record = self._state.vifs.get(vif_uuid)
            vm = record.vm_uuid if record is not None else None
            if vm is not None and vm not in active and until - TAP_GRACE_S < away_since:
                log.info("claim: its guest ended with libvirtd", vif=str(vif_uuid), vm=str(vm))
                self._state.forget_migration(vm)
                self.let_go(vif_uuid)

    def migrate_begin(self, request: HookRequest) -> None:
        """libvirt is about to let this VM in."""
        if request.vm_uuid is not None:
            self._state.note_migration(request.vm_uuid, at_unix=time.time() - NOTE_LIFE_S + UNCLAIMED_S)
            log.info("migration in announced", vm=str(request.vm_uuid))

    def _aborted(self, request: HookRequest) -> None:
        """A migration in that libvirt announced is over with its first refusal. libvirt says nothing more of it, and a
        plain start that follows must not pass for it: the guest runs on at its source, and its port would be taken."""
        if request.vm_uuid is not None:
            self._state.forget_migration(request.vm_uuid)

    # --- the loop --------------------------------------------------------------------------------------------------

    def pursue(self, due: Sequence[SeenVif], present: Sequence[SeenVif]) -> float | None:
        """Claim what is *due*, as far as its pauses allow; seconds until the next one is to be tried again.

        Refusals of VIFs that are neither *present* nor being claimed are forgotten.
        """
        now = time.monotonic()
        here = {vif.vif_uuid for vif in present}
        self._present = frozenset(vif.vif_uuid for vif in present if vif.plugged)
        wanting = {vif.vif_uuid for vif in due}
        for table in (self.refusals, self._retries):
            for vif_uuid in [uuid for uuid in table if uuid not in wanting]:
                del table[vif_uuid]
        for waiting in (self.granted_until, self._dark_until):
            for vif_uuid in [uuid for uuid, until in waiting.items() if until <= now or uuid in here]:
                del waiting[vif_uuid]
        self._state.forget_migrations(before_unix=time.time() - NOTE_LIFE_S)
        pauses, ready = [], []
        for vif in due:
            if vif.vif_uuid in self._asking:
                continue
            retry = self._retries.setdefault(vif.vif_uuid, _Retry())
            if not self._sync.connected:
                self.refusals[vif.vif_uuid] = _away(vif.vif_uuid, self._sync.why_away)
            elif retry.at <= now:
                self._asking[vif.vif_uuid] = vif.network_uuid
                ready.append((vif, retry))
            else:
                pauses.append(retry.at - now)
        self._ask(ready)
        return min(pauses, default=None)

    def meet(self, vifs: Sequence[SeenVif]) -> bool:
        """Claim *vifs* that are just being plugged, ahead of the loop; whether any could be."""
        new = [vif for vif in vifs if vif.vif_uuid not in self._asking and vif.vif_uuid not in self._retries]
        if not (new and self._sync.connected):
            return False
        asked = [(vif, self._retries.setdefault(vif.vif_uuid, _Retry())) for vif in new]
        self._asking.update({vif.vif_uuid: vif.network_uuid for vif in new})
        self._ask(asked)
        return True

    def forget_gone(self, present: Sequence[SeenVif]) -> None:
        """Drop lines of the mapping table whose VIF is neither *present* nor on its way, and whose port this host does
        not know any more. Call with VIFs that were really read."""
        coming = self.granted_until.keys() | self._dark_until.keys() | self._asking.keys()
        self._state.forget_vifs(but=coming | {vif.vif_uuid for vif in present})

    def try_again(self) -> None:
        """Something changed that may turn a refusal: pauses end."""
        self._retries.clear()

    async def close(self) -> None:
        self._taps.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- inside ----------------------------------------------------------------------------------------------------

    async def _grant(self, request: HookRequest, network_name: str) -> Grant:
        assert request.vif_uuid is not None
        vif, migrating = request.vif_uuid, request.vm_uuid in self._state.notes
        held = self._held(request)
        if held is not None and not migrating and not (held.location.parked and self._sync.connected):
            log.info("claim: this host is the recorded holder", vif=str(vif), vm=request.vm_name)
            return held
        claim = Claim(
            vif_uuid=vif,
            network_uuid=request.network_uuid,
            mac=request.mac,
            vm_uuid=request.vm_uuid,
            vm_name=request.vm_name,
            intent=ClaimIntent.MIGRATE_IN if migrating else ClaimIntent.START,
        )
        try:
            return await self._sync.claim(claim, deadline_s=CLAIM_DEADLINE_S)
        except ManagerAway as error:
            if held is not None and not migrating:
                return held
            what = "migrate here" if migrating else "start here"
            raise ManagerAway(
                f"{request.vm_name or 'the guest'} can't {what}: {error}, and this host is not the recorded holder of"
                f" VIF {vif}, so nobody can tell whether it runs elsewhere. Bring the network manager back"
                + ("" if migrating else ", or start the guest on the host that held it last")
            ) from None

    def _awaits(self, mac: str) -> bool:
        """Whether a link of this MAC is the tap of a VIF that was granted."""
        now = time.monotonic()
        waiting = (self._state.vifs.get(vif) for vif, until in self.granted_until.items() if until > now)
        return any(record is not None and is_tap_of(record.mac, tap=mac) for record in waiting)

    def _hidden(self, network: OpaqueNetwork, vif_uuid: UUID) -> str:
        """Why *network* takes no new VIF here; empty when it does, or the VIF is none: it runs here or is coming."""
        withdrawal = self._state.hidden().get(network.uuid)
        if withdrawal is None:
            return ""
        port_uuid = self._state.port_by_vif.get(vif_uuid)
        location = self._state.locations.get(port_uuid) if port_uuid is not None else None
        if location is not None:
            running = location.holder_host == self._host_uuid and not location.parked
            if running and (self._present is None or vif_uuid in self._present):
                return ""
            if location.incoming_host == self._host_uuid:
                return ""
        host = self._state.host.name if self._state.host is not None else ""
        return (
            f"{why_withdrawn(withdrawal, network=network.name, host=host)}; no VM is started or moved here until it is"
            f" restored (netmgr network restore {network.name})"
            + (", or choose another host" if withdrawal.host_uuid is not None else "")
        )

    def _held(self, request: HookRequest) -> Grant | None:
        """Port and location where this host is the recorded holder and the request fits the port."""
        assert request.vif_uuid is not None
        port_uuid = self._state.port_by_vif.get(request.vif_uuid)
        port = self._state.ports.get(port_uuid) if port_uuid is not None else None
        location = self._state.locations.get(port_uuid) if port_uuid is not None else None
        if port is None or location is None or location.holder_host != self._host_uuid:
            return None
        _check(port, request)
        return Grant(port=port, location=location)

    def _granted(self, request: HookRequest, grant: Grant) -> None:
        assert request.vif_uuid is not None
        self.granted_until[request.vif_uuid] = time.monotonic() + TAP_GRACE_S
        self.refusals.pop(request.vif_uuid, None)
        if request.vm_uuid is not None and request.vm_uuid in self._state.notes:
            self._state.note_migration(request.vm_uuid, at_unix=time.time())
        self._remember(request, grant.port.uuid, grant.port.network_uuid, grant.port.mac)
        self._changed()

    def _remember(self, request: HookRequest, port_uuid: UUID | None, network_uuid: UUID, mac: str) -> None:
        assert request.vif_uuid is not None
        before = self._state.vifs.get(request.vif_uuid)
        self._state.put_vif(
            VifRecord(
                vif_uuid=request.vif_uuid,
                port_uuid=port_uuid,
                network_uuid=network_uuid,
                mac=mac,
                vm_uuid=request.vm_uuid,
                vm_name=request.vm_name,
                ovs_port=before.ovs_port if before is not None else "",
            )
        )

    def _ask(self, ready: Sequence[tuple[SeenVif, _Retry]]) -> None:
        for at in range(0, len(ready), CLAIMS_MAX):
            task = asyncio.create_task(self._claim_seen(ready[at : at + CLAIMS_MAX]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _claim_seen(self, asked: Sequence[tuple[SeenVif, _Retry]]) -> None:
        """Claim VIFs that the loop has met at once, together: what comes of one is nothing to the others."""
        try:
            outcomes = await self._sync.claim_all(
                [self._claim_of(vif) for vif, _ in asked], deadline_s=CLAIM_DEADLINE_S
            )
            granted = []
            for (vif, retry), outcome in zip(asked, outcomes, strict=True):
                if isinstance(outcome, Grant):
                    granted.append(self._granted_seen(vif, outcome))
                else:
                    self._refused_seen(vif, retry, outcome)
            self._state.put_vifs(granted)
        except StateError as error:  # the grants themselves are the manager's, and told again
            log.error("claim: the mapping table was not written", reason=str(error))
        finally:
            for vif, _ in asked:
                self._asking.pop(vif.vif_uuid, None)
            self._changed()

    def _claim_of(self, vif: SeenVif) -> Claim:
        migrating = vif.vm_uuid in self._state.notes
        known = self._state.vifs.get(vif.vif_uuid)
        of_hook = known.network_uuid if known is not None and known.port_uuid is None else None  # let in dark
        return Claim(
            vif_uuid=vif.vif_uuid,
            network_uuid=vif.network_uuid or of_hook,
            mac=vif.mac,
            vm_uuid=vif.vm_uuid,
            intent=ClaimIntent.MIGRATE_IN if migrating else ClaimIntent.START,
        )

    def _granted_seen(self, vif: SeenVif, grant: Grant) -> VifRecord:
        for table in (self.refusals, self._retries):
            table.pop(vif.vif_uuid, None)
        log.info("claim granted", vif=str(vif.vif_uuid), ovs_port=vif.ovs_port, port=str(grant.port.uuid))
        known = self._state.vifs.get(vif.vif_uuid)
        return VifRecord(
            vif_uuid=vif.vif_uuid,
            port_uuid=grant.port.uuid,
            network_uuid=grant.port.network_uuid,
            mac=grant.port.mac,
            vm_uuid=vif.vm_uuid,
            vm_name=known.vm_name if known is not None and known.vm_uuid == vif.vm_uuid else "",
            ovs_port=vif.ovs_port,
        )

    def _refused_seen(self, vif: SeenVif, retry: _Retry, error: Refused | ManagerAway) -> None:
        retry.attempts += 1
        retry.at = time.monotonic() + min(_RETRY_S_MAX, _RETRY_S_MIN * 2 ** min(retry.attempts - 1, 10))
        sentence = str(error) if isinstance(error, Refused) else _away(vif.vif_uuid, str(error))
        if self.refusals.get(vif.vif_uuid) != sentence:
            log.warning("claim refused, the VIF stays dark", vif=str(vif.vif_uuid), reason=sentence)
        self.refusals[vif.vif_uuid] = sentence


def _check(port: LogicalPort, request: HookRequest) -> None:
    if port.network_uuid != request.network_uuid:
        raise Refused(
            f"VIF {request.vif_uuid} belongs to port {port.name} of another network ({port.network_uuid}); give the"
            " interface a VIF UUID of its own"
        )
    if request.mac and port.mac and request.mac != port.mac:
        raise Refused(
            f"VIF {request.vif_uuid} has MAC {request.mac} in the domain, but port {port.name} allows {port.mac} only;"
            " make them equal"
        )


def _away(vif_uuid: UUID, why: str) -> str:
    return f"VIF {vif_uuid} is not this host's as far as is known, and nobody can be asked: {why}"
