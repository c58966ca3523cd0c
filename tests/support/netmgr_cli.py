"""The command line `netmgr`, called in this process against a served API."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from netmgr.cli import main
from tests.support.netmgr_api import Api

__all__ = ["Cli", "Result"]


@dataclass
class Result:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """Calls `netmgr` in this process, as the operator."""

    def __init__(self, api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.api = api
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str, identity: Path | None = None, manager: str | None = None) -> Result:
        self._monkeypatch.setenv("NETMGR_MANAGER", manager or f"127.0.0.1:{self.api.port}")
        self._monkeypatch.setenv("NETMGR_IDENTITY", str(identity or self.api.directory / "operator"))
        self._monkeypatch.setattr(sys, "argv", ["netmgr", *words])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        captured = self._capsys.readouterr()
        return Result(int(left.value.code or 0), captured.out, captured.err)

    def ok(self, *words: str) -> Result:
        result = self(*words)
        assert result.code == 0, result.err
        return result
