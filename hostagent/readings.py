"""What is read beside the loop, a moment after something changed: the kernel's links, and libvirt's networks.

Theory of operation. Both change with every guest, and reading them takes longer than all else that a turn of the loop
does. So events do not make the loop wait: they cause a reading a little later, once for all that came, and the loop is
woken when it is here. Until then the last reading counts. A step of ours is another thing: after one that changes links
`LinkReadings.now` reads them again, and what libvirt has said yes to is put into what was read at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hostagent.model import DefineNetwork, KeepNetwork, LibvirtNetwork, Link, RemoveNetwork, Unread
from hostagent.realize.errors import RealizeError
from hostagent.realize.libvirt_link import LibvirtLink
from hostagent.realize.libvirt_networks import LibvirtNetworks
from hostagent.realize.netlink import Netlink

__all__ = ["LinkReadings", "NetworkReadings"]

_LINKS_S, _NETWORKS_S = 0.05, 0.1  # from an event to the reading


class LinkReadings:
    """The kernel's links as last read. *changed* is called on the event loop after a reading that an event caused."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.netlink = Netlink(on_change=self._event)
        self._links: tuple[Link, ...] | Unread = Unread("not yet read")
        self._stale = True  # a step of ours, or an audit, wants them read before they are looked at
        self._news = False  # the kernel has told of a change
        self._task: asyncio.Task[None] | None = None

    @property
    def last(self) -> tuple[Link, ...] | Unread:
        return self._links

    @property
    def fresh(self) -> bool:
        """False while the kernel has told of a change that is not read yet."""
        return self._task is None

    def forget(self) -> None:
        """A step has changed links, or everything is to be read anew: `now` reads."""
        self._stale = True

    async def now(self) -> tuple[Link, ...] | Unread:
        """The links, read if a step has changed them or they could not be read."""
        if self._stale or isinstance(self._links, Unread):
            self._stale = False
            self._links = await self.netlink.read_links()
        return self._links

    def start(self) -> None:
        self.netlink.start()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.netlink.close()

    def _event(self) -> None:
        self._news = True
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="links")

    async def _follow(self) -> None:
        try:
            while self._news:
                await asyncio.sleep(_LINKS_S)
                self._news = False
                self._links = await self.netlink.read_links()
        finally:
            self._task = None
        self._changed()


class NetworkReadings:
    """libvirt's networks as last read. *changed* is called on the event loop when there is another reading.

    Never waited for: libvirtd holds a network while it runs our hook, and the hook waits for the agent.
    """

    def __init__(self, link: LibvirtLink, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._libvirt = LibvirtNetworks(link, on_change=self._event)
        self.last: tuple[LibvirtNetwork, ...] | Unread = Unread("libvirt: not yet read")
        self._stale = True
        self._full = True
        self._steps = 0  # carried out so far
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def reading(self) -> bool:
        """True while they are being read: `last` is not the newest."""
        return self._task is not None and not self._task.done()

    @property
    def awaited(self) -> bool:
        """True while nothing is known of them and they are being read."""
        return self.reading and isinstance(self.last, Unread)

    def forget(self) -> None:
        """Read everything from the source at the next `refresh`."""
        self._stale = self._full = True

    def refresh(self) -> None:
        """Begin to read what changed, unless that is under way."""
        if self._stale and not self.reading:
            self._task = asyncio.create_task(self._read(), name="networks")

    async def apply(self, step: DefineNetwork | KeepNetwork | RemoveNetwork) -> None:
        """Carry *step* out; `last` has what came of it.

        Raises:
            RealizeError: libvirt refused, or does not answer.
        """
        try:
            found = await self._libvirt.apply(step)
        except RealizeError:
            self._stale = True  # how far it came, the next reading tells
            raise
        finally:
            self._steps += 1
        if not isinstance(self.last, Unread):
            others = [network for network in self.last if network.uuid != step.uuid]
            self.last = tuple(sorted([*others, *([found] if found else [])], key=lambda network: network.name))

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        self._stale = False
        full, self._full = self._full, False
        steps, before = self._steps, self.last
        found = await self._libvirt.read(full=full)
        self._task = None
        if steps != self._steps:  # read before or after the step: who knows
            self._stale = True
        else:
            self.last = found
        if self._stale or isinstance(found, Unread) or found != before:
            self._changed()

    def _event(self) -> None:
        if self._timer is None:
            pause_s = 0 if isinstance(self.last, Unread) else _NETWORKS_S
            self._timer = asyncio.get_running_loop().call_later(pause_s, self._due)

    def _due(self) -> None:
        self._timer = None
        self._stale = True
        self.refresh()
