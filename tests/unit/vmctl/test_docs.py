"""docs/vmctl.md and the unit file say what the command line takes, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from vmctl.cli import main

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "vmctl.md").read_text() + (ROOT / "docs" / "traditional-switch.md").read_text()


def options(*command: str) -> dict[str, str]:
    """Long options of a command with their variables, empty for those that have none."""
    found: click.Command = main
    for word in command:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    told = {}
    for param in found.params:
        long = next((name for name in param.opts if name.startswith("--")), None)
        if isinstance(param, click.Option) and long not in (None, "--help", "--output"):
            told[str(long)] = str(param.envvar or "")
    return told


def test_options_of_serve_and_their_variables_are_those_of_the_table() -> None:
    rows = re.findall(r"^\| `(--[a-z-]+)[^`]*` \| `(VMCTL_[A-Z_]+)` \|", PAGE, re.MULTILINE)
    assert dict(rows) == options("serve")


@pytest.mark.parametrize("command", [("migrate",), ("host", "add"), ("host", "maintenance"), ("balance",), ("place",)])
def test_every_option_of_what_moves_vms_is_told(command: tuple[str, ...]) -> None:
    assert [option for option in options(*command) if option not in PAGE] == []


def test_every_command_that_is_told_is_there() -> None:
    examples = "\n".join(PAGE.split("```")[1::2])
    lines = re.findall(r"^vmctl ([a-z-]+)(?: ([a-z-]+))?", examples, re.MULTILINE)
    assert len(lines) > 30
    for first, second in lines:
        assert first in main.commands, first
        if isinstance(inner := main.commands[first], click.Group):
            assert second in inner.commands, f"{first} {second}"


def test_unit_runs_the_command_with_the_directories_that_are_its_defaults() -> None:
    unit = (ROOT / "scripts" / "systemd" / "vmctl.service").read_text()
    defaults = {param.name: str(param.default) for param in (*main.params, *main.commands["serve"].params)}
    assert "ExecStart=/usr/bin/vmctl serve\n" in unit
    assert defaults["state_dir"] == "/var/lib/" + re.findall("StateDirectory=(.*)", unit)[0]
    assert defaults["socket"].startswith("/run/" + re.findall("RuntimeDirectory=(.*)", unit)[0] + "/")
    assert set(re.findall("VMCTL_[A-Z_]+", unit)) <= set(options("serve").values())
