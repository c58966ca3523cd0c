"""What one host has been sent, and the difference to what it must hold now.

The outbox never queues messages. It keeps the versions that the host was sent and the marks of what may have changed
since; `take` compares the marked objects with the world as it is then. A slow host so costs a set of marks, gets the
newest state when it reads again, and never what lay between.

What the host's agent is too old to read is withheld: not sent, and told by `withheld`. If the host has it from before,
it stays there as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

from netmgr.contract import codec
from netmgr.contract.proto import sync_pb2
from netmgr.contract.reading import words_of
from netmgr.contract.types import Kind, Object, OpaqueSwitch, Ref, ref_of
from netmgr.model import World
from netmgr.span import Holdings, Key, object_for, objects_for

__all__ = ["OBJECTS_PER_UPDATE", "Batch", "Outbox", "Packing"]

OBJECTS_PER_UPDATE = 500
_PACKED_OBJECTS_MAX = 50  # larger differences are not what many hosts have in common
_PACKED_MAX = 20
_ORDER = {kind: place for place, kind in enumerate(Kind)}
_RESEND = -1  # no version equals it


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One difference: after it, the host holds what it must hold at *revision*."""

    revision: int
    upserts: tuple[Object, ...]
    removals: tuple[Ref, ...]

    def updates(self, *, initial: bool) -> Iterator[sync_pb2.Update]:
        """The parts, encoded one by one; at least one. Removals first, then upserts in the order of need."""
        items: Iterator[Object | Ref] = iter((*self.removals, *self.upserts))
        part = tuple(islice(items, OBJECTS_PER_UPDATE))
        while True:
            following = tuple(islice(items, OBJECTS_PER_UPDATE))
            yield sync_pb2.Update(
                revision=self.revision,
                upserts=(codec.encode_object(x) for x in part if isinstance(x, Object)),
                removals=(codec.encode_ref(x) for x in part if isinstance(x, Ref)),
                last=not following,
                initial=initial,
            )
            if not following:
                return
            part = following


class Packing:
    """Differences as they travel, each packed once for all hosts that are sent the same.

    What an object is at a revision, it is for every host that is sent it (see `span`): so objects that are the same by
    name are the same.
    """

    def __init__(self) -> None:
        self._revision = 0
        self._packed: dict[tuple[object, ...], bytes] = {}

    def parts(self, batch: Batch, *, initial: bool) -> Iterator[tuple[bool, bytes]]:
        """The messages of *batch* as bytes, each with whether it is the last."""
        if initial or len(batch.upserts) + len(batch.removals) > _PACKED_OBJECTS_MAX:
            for update in batch.updates(initial=initial):
                yield update.last, _pack(update)
            return
        if self._revision != batch.revision or len(self._packed) >= _PACKED_MAX:
            self._packed.clear()
            self._revision = batch.revision
        name = (batch.removals, *(ref_of(item) for item in batch.upserts))
        packed = self._packed.get(name)
        if packed is None:
            (update,) = batch.updates(initial=False)
            packed = self._packed[name] = _pack(update)
        yield True, packed


def _pack(update: sync_pb2.Update) -> bytes:
    return sync_pb2.ManagerMessage(update=update).SerializeToString()


class Outbox:
    """The outgoing state of one stream."""

    def __init__(
        self, host_uuid: UUID, subscribed: Collection[UUID], *, unreadable: frozenset[str] = frozenset()
    ) -> None:
        self.host_uuid = host_uuid
        self.unreadable = unreadable
        """Words of the contract that its agent can't read."""
        self.withheld: dict[Key, frozenset[str]] = {}
        """What it was not sent by now, with the words that it needs for it."""
        self.subscribed: frozenset[UUID] = frozenset(subscribed)
        self._sent: dict[Key, int] = {}
        self._marked: set[Key] = set()
        self._whole = True

    def assume(self, have: Iterable[Ref], *, trusted: bool) -> None:
        """The host holds *have* already. Not *trusted*: it holds these objects, in contents that may not be ours."""
        self._sent = {(ref.kind, ref.uuid): ref.version if trusted else _RESEND for ref in have}

    def subscribe(self, world: World, subscribed: Collection[UUID]) -> None:
        """From now on the host wants the ports of these networks, and no others."""
        after = frozenset(subscribed)
        for network in self.subscribed ^ after:
            for port in world.ports_by_network.get(network, ()):
                self.mark(((Kind.PORT, port), (Kind.LOCATION, port), (Kind.LEARNED, port)))
        self.subscribed = after

    def mark(self, keys: Iterable[Key]) -> None:
        """These objects may have changed for this host."""
        self._marked.update(keys)

    def mark_whole(self) -> None:
        """Anything may have changed for this host."""
        self._whole = True

    def given(self, keys: Iterable[Key]) -> None:
        """The host got these in an answer: it is sent them again, or their removal if it must not hold them now."""
        for key in keys:
            self._sent.setdefault(key, _RESEND)
            self._marked.add(key)

    @property
    def marked(self) -> bool:
        """True when `take` may find something."""
        return self._whole or bool(self._marked)

    def take(self, world: World, holdings: Holdings) -> Batch:
        """The difference between what was sent and what *world* wants; from now on it counts as sent."""
        if self._whole:
            held = holdings.of_host(self.host_uuid)
            wanted = objects_for(world, self.host_uuid, self.subscribed, held)
            gone = [key for key in self._sent if key not in wanted]
            found = list(wanted.items())
            self.withheld.clear()
        else:
            held = holdings.of_host(self.host_uuid)
            looked = [(k, object_for(world, self.host_uuid, self.subscribed, k, held)) for k in self._marked]
            gone = [key for key, item in looked if item is None and key in self._sent]
            found = [(key, item) for key, item in looked if item is not None]
            for key in self._marked if self.withheld else ():
                self.withheld.pop(key, None)
        self._whole = False
        self._marked.clear()
        news = [(key, item) for key, item in found if self._sent.get(key) != item.version]
        if self.unreadable:
            news = [(key, item) for key, item in news if self._readable(world, item)]
        for key in gone:
            del self._sent[key]
        for key, item in news:
            self._sent[key] = item.version
        if len(news) > 1:
            news.sort(key=lambda one: _ORDER[one[0][0]])
        return Batch(
            revision=world.revision,
            upserts=tuple(item for _key, item in news),
            removals=tuple(Ref(kind=k, uuid=u) for k, u in sorted(gone, key=lambda key: -_ORDER[key[0]])),
        )

    def _readable(self, world: World, item: Object) -> bool:
        missing = words_of(item.body) & self.unreadable
        if isinstance(item.body, OpaqueSwitch):  # without one of its zones it would be a switch for nothing
            of_zones = [words_of(world.zones[uuid]) & self.unreadable for uuid in item.body.zone_uuids]
            missing |= frozenset().union(*of_zones) if all(of_zones) else frozenset()
        if missing:
            ref = ref_of(item)
            self.withheld[ref.kind, ref.uuid] = missing
        return not missing
