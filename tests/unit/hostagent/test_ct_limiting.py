"""Limits that can't be set are told, with the reason, where they are wanted."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from hostagent.realize.errors import RealizeError
from hostagent.tracking.limiting import Limiting


class Switch:
    """vswitchd of a kernel that has no limits until *knows* is set."""

    def __init__(self) -> None:
        self.knows = False
        self.process = 1
        self.said: list[tuple[str, ...]] = []

    async def ask(self, *words: str) -> str:
        if not self.knows:
            raise RealizeError("the kernel knows no limits")
        self.said.append(words)
        return "default limit=0\n"

    def host(self) -> Any:
        return cast(Any, SimpleNamespace(ask_switch=self.ask, switch_process=lambda: self.process))


@pytest.mark.parametrize(("limit", "ports"), [(0, 1), (10, 0)])
def test_nothing_is_told_where_no_limit_is_wanted(limit: int, ports: int) -> None:
    limiting = Limiting(host=Switch().host(), zones={uuid4(): 40960 for _ in range(ports)}, limit=limit)
    asyncio.run(limiting.look())
    assert limiting.unlimited == ""


def test_the_reason_is_told_until_the_limits_are_set() -> None:
    switch = Switch()
    limiting = Limiting(host=switch.host(), zones={uuid4(): 40960}, limit=10)
    asyncio.run(limiting.look())
    assert limiting.unlimited == "the kernel knows no limits"
    switch.knows, switch.process = True, 2
    asyncio.run(limiting.look())
    assert limiting.unlimited == ""
    assert switch.said[-1] == ("dpctl/ct-set-limits", "zone=40960,limit=10")
