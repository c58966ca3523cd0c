"""Rows of OVN's databases, thousands in one transaction.

`ovn-nbctl` and `ovn-sbctl` look for a port by a search through all of them, once for each command of theirs, and begin
with a copy of the whole database: minutes for ten thousand ports. Here the database is asked once, and told by UUID,
which it has an index of.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.benchkit.inside import rpc
from scripts.benchkit.subject import Port
from scripts.labkit import LabError

__all__ = ["bind_elsewhere", "delete_ports", "insert_ports"]

_ANSWER_S = 30.0
_LOOK_S = 0.5
_CHUNK = 2000  # rows of one transaction: others get their turn between two


def insert_ports(northbound: Path, network: str, ports: Sequence[Port]) -> None:
    """Ports of a logical switch with MAC, address and port security; returns when the database has them."""
    for chunk in _chunks(ports):
        operations: list[dict[str, Any]] = []
        for number, port in enumerate(chunk):
            both = f"{port.mac} {port.address}"
            row = {"name": port.vif_uuid, "addresses": both, "port_security": both}
            operations.append({"op": "insert", "table": "Logical_Switch_Port", "row": row, "uuid-name": f"p{number}"})
        made = ["set", [["named-uuid", f"p{number}"] for number in range(len(chunk))]]
        _transact(northbound, "OVN_Northbound", [*operations, _of_switch(network, "insert", made)])


def delete_ports(northbound: Path, network: str, ports: Sequence[Port]) -> None:
    """Take ports out of a logical switch; the database drops what nobody refers to."""
    known = _uuids(northbound, "OVN_Northbound", "Logical_Switch_Port", "name")
    gone = ["set", [known[port.vif_uuid] for port in ports]]
    _transact(northbound, "OVN_Northbound", [_of_switch(network, "delete", gone)])


def bind_elsewhere(southbound: Path, chassis: str, ports: Sequence[Port], *, within_s: float) -> None:
    """Bind *ports* to a chassis that has no controller, as one would that had them, once northd has made them.

    Raises:
        LabError: northd has not made them all within *within_s*.
    """
    wanted = {port.vif_uuid for port in ports}
    deadline = time.monotonic() + within_s
    while True:
        bindings = _uuids(southbound, "OVN_Southbound", "Port_Binding", "logical_port")
        missing = wanted - bindings.keys()
        if not missing:
            break
        if time.monotonic() > deadline:
            raise LabError(f"northd has not made {len(missing)} of {len(wanted)} ports within {within_s:g} s")
        time.sleep(_LOOK_S)
    far = _uuids(southbound, "OVN_Southbound", "Chassis", "name")[chassis]
    row = {"chassis": far, "up": True}
    for chunk in _chunks(ports):
        operations = [
            {"op": "update", "table": "Port_Binding", "where": [["_uuid", "==", bindings[port.vif_uuid]]], "row": row}
            for port in chunk
        ]
        _transact(southbound, "OVN_Southbound", operations)


def _uuids(database: Path, schema: str, table: str, column: str) -> dict[str, Any]:
    """The rows of a table, by a column of text."""
    asked = {"op": "select", "table": table, "where": [], "columns": ["_uuid", column]}
    (answer,) = _transact(database, schema, [asked])
    return {row[column]: row["_uuid"] for row in answer["rows"]}


def _of_switch(network: str, verb: str, ports: Any) -> dict[str, Any]:
    where = [["name", "==", network]]
    return {"op": "mutate", "table": "Logical_Switch", "where": where, "mutations": [["ports", verb, ports]]}


def _chunks(ports: Sequence[Port]) -> Iterator[Sequence[Port]]:
    return (ports[at : at + _CHUNK] for at in range(0, len(ports), _CHUNK))


def _transact(database: Path, schema: str, operations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = rpc(database, "transact", schema, *operations, timeout_s=_ANSWER_S)
    for answer in answers:
        if answer is not None and "error" in answer:
            raise LabError(f"{schema}: refused: {answer['error']} {answer.get('details')}")
    return answers
