"""libvirt is never asked two things at once: libvirt 9.0 stalls for seconds when two threads share a connection."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

from hostagent.realize.libvirt_link import LibvirtLink


def test_calls_of_one_link_follow_each_other_in_one_thread() -> None:
    threads: set[int] = set()
    spans: list[tuple[float, float]] = []

    def call(conn: Any) -> str:
        threads.add(threading.get_ident())
        began = time.monotonic()
        name: str = conn.getHostname()
        time.sleep(0.02)
        spans.append((began, time.monotonic()))
        return name

    async def main() -> None:
        link = LibvirtLink("test:///default")
        connected = asyncio.Event()
        link.subscribe(connected=lambda conn: threads.add(threading.get_ident()), changed=connected.set)
        link.start()
        try:
            await asyncio.wait_for(connected.wait(), 5)
            names = await asyncio.gather(*(link.call(call) for _ in range(5)))
        finally:
            await link.close()
        assert len(set(names)) == 1

    asyncio.run(main())
    assert len(threads) == 1
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))
