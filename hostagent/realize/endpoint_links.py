"""Devices of endpoints: veth pairs, interfaces in network namespaces, addresses, by iproute2's `ip`.

A namespace is entered with `nsenter`, by its path, so that one without a name (a container's /proc/PID/ns/net) will do.
Each call is one or two short-lived processes with a deadline; endpoints are made seldom.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hostagent.realize.errors import RealizeError
from hostagent.records import Endpoint, EndpointKind

__all__ = ["has_link", "has_netns", "make_veth", "netns_path", "remove_link", "set_up"]

_DEADLINE_S = 10.0
_NETNS_DIR = Path("/run/netns")


def netns_path(text: str) -> Path:
    """Path of a network namespace, given its name (as `ip netns` has it) or a path."""
    return Path(text) if "/" in text else _NETNS_DIR / text


def has_netns(path: str) -> bool:
    """True when a network namespace can be there; what can't be looked at (a name too long, no right) is none."""
    try:
        return netns_path(path).exists()
    except OSError:
        return False


def has_link(name: str) -> bool:
    """True when this host has an interface of that name now."""
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


async def make_veth(endpoint: Endpoint, *, mtu: int) -> None:
    """A veth pair: `device` here, up, and `ifname` in the namespace with its MAC. Nothing stays when it fails.

    Raises:
        RealizeError: the namespace is gone, the name is taken there, or the kernel refused.
    """
    peer = f"tmp{endpoint.device[-11:]}"
    await _run(
        endpoint, "ip", "link", "add", "name", endpoint.device, "mtu", str(mtu), "type", "veth",
        "peer", "name", peer, "mtu", str(mtu), "address", endpoint.mac,
    )  # fmt: skip
    try:
        await _run(endpoint, "ip", "link", "set", "dev", endpoint.device, "addrgenmode", "none", "up")
        await _run(endpoint, "ip", "link", "set", "dev", peer, "netns", endpoint.netns, "name", endpoint.ifname)
    except RealizeError:
        await remove_link(endpoint.device)
        raise


async def set_up(endpoint: Endpoint, *, mtu: int, offload: bool) -> None:
    """Give the endpoint's interface MAC, MTU and addresses, and bring it up. Doing it again changes nothing.

    *offload* False switches checksum offload off, as Open vSwitch's userspace datapath needs.

    Raises:
        RealizeError: the interface is gone, or the kernel refused.
    """
    inside = ["nsenter", f"--net={endpoint.netns}"] if endpoint.netns else []
    name = endpoint.ifname
    lines = [f"link set dev {name} mtu {mtu}"]
    if endpoint.kind is not EndpointKind.PNIC:  # a physical NIC keeps its own MAC: the guest behind it has the port's
        lines.append(f"link set dev {name} address {endpoint.mac}")
    lines += [f"address replace {address} dev {name}" for address in endpoint.addresses]
    lines.append(f"link set dev {name} up")
    await _run(endpoint, *inside, "ip", "-batch", "-", stdin="\n".join(lines))
    if not offload and endpoint.kind is EndpointKind.NETNS:
        with suppress(RealizeError):  # without ethtool pings pass and TCP may not; not worth refusing
            await _run(endpoint, *inside, "ethtool", "-K", name, "tx", "off")
            await _run(endpoint, "ethtool", "-K", endpoint.device, "tx", "off")


async def remove_link(name: str) -> None:
    """Delete a link and its peer; one that is gone already is fine."""
    with suppress(RealizeError):
        await _run(None, "ip", "link", "delete", "dev", name)


async def _run(endpoint: Endpoint | None, *command: str, stdin: str = "") -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise RealizeError(f"{command[0]} can't be run: {error.strerror}; install it") from None
    try:
        _, errors = await asyncio.wait_for(process.communicate(stdin.encode()), _DEADLINE_S)
    except TimeoutError:
        process.kill()
        raise RealizeError(f"{_words(command)}: no end within {_DEADLINE_S:g} s") from None
    if process.returncode:
        what = f"endpoint {endpoint.ifname}" if endpoint is not None else "link"
        raise RealizeError(f"{what}: {_words(command)} failed: {errors.decode(errors='replace').strip()}")


def _words(command: Sequence[str]) -> str:
    return " ".join(command)
