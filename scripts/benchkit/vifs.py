"""VIFs as a hypervisor plugs them: taps, put into a bridge by one transaction of the host's database.

`first_frames` is the measure that needs no word of any agent: it writes frames into taps as guests would, every
millisecond, from the moment of the transaction, and looks when they come out at another host.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from scripts.benchkit.deployment import Carrier
from scripts.benchkit.inside import Tap, rpc
from scripts.benchkit.subject import Port
from scripts.labkit import LabError

__all__ = ["Vif", "first_frames", "plug", "plug_dummies", "speech", "unplug"]

_DATABASE = "Open_vSwitch"
_TURN_S = 0.0005
_PAYLOAD = b"first frame" + bytes(40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vif:
    """A guest's end of a port."""

    port: Port
    tap: Tap


def plug(carrier: Carrier, host: str, vifs: Sequence[Vif]) -> None:
    """Put taps into the bridge of *host*, in one transaction; returns when the database has it."""
    _plug(carrier, host, [(vif.tap.name, vif.port, "") for vif in vifs])


def plug_dummies(carrier: Carrier, host: str, ports: Sequence[Port]) -> None:
    """Put VIFs without a device into the bridge of *host*, in one transaction: known everywhere, and silent."""
    _plug(carrier, host, [(f"dummy{number}", port, "dummy") for number, port in enumerate(ports)])


def _plug(carrier: Carrier, host: str, vifs: Sequence[tuple[str, Port, str]]) -> None:
    operations: list[dict[str, Any]] = []
    for number, (name, of, kind) in enumerate(vifs):
        ids = {"iface-id": of.vif_uuid, "attached-mac": of.mac, "iface-status": "active"}
        interface = {"name": name, "type": kind, "external_ids": ["map", [*map(list, ids.items())]]}
        port = {"name": name, "interfaces": ["named-uuid", f"i{number}"]}
        operations.append({"op": "insert", "table": "Interface", "row": interface, "uuid-name": f"i{number}"})
        operations.append({"op": "insert", "table": "Port", "row": port, "uuid-name": f"p{number}"})
    added = ["set", [["named-uuid", f"p{number}"] for number in range(len(vifs))]]
    _transact(carrier, host, [*operations, _of_bridge(carrier.bridge(host), "insert", added)])


def unplug(carrier: Carrier, host: str, vifs: Sequence[Vif]) -> None:
    """Take taps out of the bridge of *host*, and close them."""
    of_these = [{"op": "select", "table": "Port", "where": [["name", "==", vif.tap.name]]} for vif in vifs]
    found = _transact(carrier, host, of_these)
    gone = ["set", [row["_uuid"] for answer in found for row in answer["rows"]]]
    _transact(carrier, host, [_of_bridge(carrier.bridge(host), "delete", gone)])
    for vif in vifs:
        vif.tap.close()


def speech(senders: Sequence[Vif], receiver: Vif) -> dict[bytes, tuple[Tap, bytes]]:
    """By MAC, what each sender is to say to *receiver*, and where: made before the clock starts."""
    return {bytes.fromhex(vif.port.mac.replace(":", "")): (vif.tap, _frame(vif, receiver)) for vif in senders}


def first_frames(frames: dict[bytes, tuple[Tap, bytes]], receiver: Vif, *, began: float, within_s: float) -> float:
    """Seconds from *began* (monotonic) until *receiver* has had a frame of every sender in *frames* (`speech`).

    Those still unheard take turns, a frame each half millisecond.

    Raises:
        LabError: not all were heard within the time.
    """
    frames, number = dict(frames), len(frames)
    while True:
        for tap, frame in list(frames.values()):
            tap.send(frame)
            select.select([receiver.tap], [], [], _TURN_S)
            while (got := receiver.tap.received()) is not None:
                frames.pop(got[6:12], None)
            now = time.monotonic()
            if not frames:
                return now - began
            if now - began > within_s:
                raise LabError(f"{len(frames)} of {number} VIFs were not heard within {within_s:g} s")


def _frame(sender: Vif, receiver: Vif) -> bytes:
    addresses = IP(src=sender.port.address, dst=receiver.port.address) / UDP(sport=9, dport=9) / _PAYLOAD
    return bytes(Ether(src=sender.port.mac, dst=receiver.port.mac) / addresses)


def _of_bridge(bridge: str, verb: str, ports: Any) -> dict[str, Any]:
    return {"op": "mutate", "table": "Bridge", "where": [["name", "==", bridge]], "mutations": [["ports", verb, ports]]}


def _transact(carrier: Carrier, host: str, operations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = rpc(carrier.ovsdb(host), "transact", _DATABASE, *operations)
    for answer in answers:
        if "error" in answer:
            raise LabError(f"{carrier.name}: the database of {host} refused: {answer['error']} {answer.get('details')}")
    return answers
