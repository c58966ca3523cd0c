"""Steps as writes to rows of the IDL inside an open transaction.

Only differences are written, so a step that is already true costs nothing; shared maps and sets are mutated, never
replaced. `options` of an interface is the exception: it belongs to the step that made the interface, whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hostagent.model import Interface, PutBridge, PutPort, PutQos, RemoveBridge, RemovePort, RemoveQos
from hostagent.names import OWNER, is_ours
from hostagent.realize.errors import RealizeError

__all__ = ["write_step"]


Step = PutBridge | RemoveBridge | PutPort | RemovePort | PutQos | RemoveQos


def write_step(idl: Any, txn: Any, root: Any, step: Step) -> None:
    """Add *step* to transaction *txn*; *root* is the row of Open_vSwitch.

    Raises:
        RealizeError: a name is taken by something that is not where the step wants it.
    """
    if isinstance(step, PutBridge):
        _put_bridge(idl, txn, root, step)
    elif isinstance(step, RemoveBridge):
        bridge = _row(idl, "Bridge", step.name)
        if bridge is not None:
            root.delvalue("bridges", bridge)
    elif isinstance(step, PutPort):
        _put_port(idl, txn, step)
    elif isinstance(step, PutQos):
        _put_qos(idl, txn, step)
    elif isinstance(step, RemoveQos):
        qos = idl.tables["QoS"].rows.get(step.uuid)
        if qos is not None:
            _drop_qos(qos)
    else:
        bridge = _row(idl, "Bridge", step.bridge)
        port = _row(idl, "Port", step.name)
        if bridge is not None and port is not None and port in bridge.ports:
            bridge.delvalue("ports", port)


def _put_bridge(idl: Any, txn: Any, root: Any, step: PutBridge) -> None:
    bridge = _row(idl, "Bridge", step.name)
    if bridge is None:
        if _row(idl, "Port", step.name) is not None:
            raise RealizeError(
                f"bridge {step.name}: a port of another bridge has this name; remove it with `ovs-vsctl del-port`"
            )
        interface = txn.insert(idl.tables["Interface"])
        interface.name = step.name
        interface.type = "internal"
        port = txn.insert(idl.tables["Port"])
        port.name = step.name
        port.interfaces = [interface]
        bridge = txn.insert(idl.tables["Bridge"])
        bridge.name = step.name
        bridge.datapath_type = step.datapath_type
        bridge.fail_mode = [step.fail_mode] if step.fail_mode else []
        bridge.external_ids = dict(step.external_ids)
        bridge.other_config = dict(step.other_config)
        bridge.ports = [port]
        root.addvalue("bridges", bridge)
        return
    if _value(bridge, "datapath_type") != step.datapath_type:
        bridge.datapath_type = step.datapath_type
    fail_mode = [step.fail_mode] if step.fail_mode else []
    if _value(bridge, "fail_mode") != fail_mode:
        bridge.fail_mode = fail_mode
    _put_keys(bridge, "external_ids", step.external_ids)
    _put_keys(bridge, "other_config", step.other_config)


def _put_port(idl: Any, txn: Any, step: PutPort) -> None:
    bridge = _row(idl, "Bridge", step.bridge)
    if bridge is None:
        raise RealizeError(f"port {step.name}: bridge {step.bridge} is gone; it is made first and the port retried")
    if step.name == step.bridge:  # LOCAL: made with its bridge; ours are its MTU, and a VLAN where nobody has said one
        for interface in step.interfaces:
            row = _row(idl, "Interface", interface.name)
            asked = [] if interface.mtu_request is None else [interface.mtu_request]
            if row is not None and asked and _value(row, "mtu_request") != asked:
                row.mtu_request = asked
        local = _row(idl, "Port", step.name)
        if step.tag is not None and local is not None and not _value(local, "tag"):
            local.tag = [step.tag]
        return
    port = _row(idl, "Port", step.name)
    wanted = {interface.name for interface in step.interfaces}
    if port is None:
        port = txn.insert(idl.tables["Port"])
        port.name = step.name
        port.external_ids = dict(step.external_ids)
        port.other_config = dict(step.other_config)
        if step.bond_mode:
            port.bond_mode = [step.bond_mode]
        if step.lacp:
            port.lacp = [step.lacp]
        if step.trunks:
            port.vlan_mode = ["trunk"]
            port.trunks = list(step.trunks)
        port.interfaces = [_put_interface(idl, txn, None, interface) for interface in step.interfaces]
        bridge.addvalue("ports", port)
        return
    if port not in bridge.ports:
        raise RealizeError(
            f"port {step.name}: wanted in {step.bridge}, found in another bridge; remove it there with"
            f" `ovs-vsctl del-port {step.name}`"
        )
    present = {interface.name: interface for interface in port.interfaces}
    for interface in step.interfaces:
        row = _put_interface(idl, txn, present.get(interface.name), interface)
        if interface.name not in present:
            port.addvalue("interfaces", row)
    for name, row in present.items():
        if name not in wanted:
            port.delvalue("interfaces", row)
    for column, word in (("bond_mode", step.bond_mode), ("lacp", step.lacp)):
        wanted_words = [word] if word else []
        if _value(port, column) != wanted_words:
            setattr(port, column, wanted_words)
    if step.trunks and _value(port, "vlan_mode") != ["trunk"]:
        port.vlan_mode = ["trunk"]
    if step.trunks and sorted(_value(port, "trunks")) != list(step.trunks):
        port.trunks = list(step.trunks)
    _put_keys(port, "external_ids", step.external_ids)
    _put_keys(port, "other_config", step.other_config)


def _put_interface(idl: Any, txn: Any, row: Any, wanted: Interface) -> Any:
    if row is None:
        holder = _row(idl, "Interface", wanted.name)
        if holder is not None:
            raise RealizeError(
                f"interface {wanted.name}: already on another OVS port; one interface can be in one port only"
            )
        row = txn.insert(idl.tables["Interface"])
        row.name = wanted.name
        row.type = wanted.type
        row.options = dict(wanted.options)
        row.external_ids = dict(wanted.external_ids)
        if wanted.mtu_request is not None:
            row.mtu_request = [wanted.mtu_request]
        return row
    if _value(row, "type") != wanted.type:
        row.type = wanted.type
    if dict(_value(row, "options") or {}) != dict(wanted.options):
        row.options = dict(wanted.options)
    if wanted.mtu_request is not None and _value(row, "mtu_request") != [wanted.mtu_request]:
        row.mtu_request = [wanted.mtu_request]
    _put_keys(row, "external_ids", wanted.external_ids)
    return row


def _put_qos(idl: Any, txn: Any, step: PutQos) -> None:
    """Ours is made anew, queues and all: QoS and Queue are root tables, where nothing goes by itself."""
    port = _row(idl, "Port", step.name)
    if port is None:
        if step.qos is None:
            return
        raise RealizeError(f"port {step.name}: is gone from bridge {step.bridge}, so it is not shaped")
    found = next(iter(_value(port, "qos") or ()), None)
    if found is not None:
        if not is_ours(found.external_ids):
            raise RealizeError(f"port {step.name}: has a QoS that this agent did not make, which is left alone")
        port.qos = []
        _drop_qos(found)
    if step.qos is None:
        return
    qos = txn.insert(idl.tables["QoS"])
    qos.type = "linux-htb"
    qos.other_config = {"max-rate": str(step.qos.max_bps)}
    qos.external_ids = dict(OWNER)
    queues = {}
    for number, wanted in enumerate(step.qos.queues):
        queues[number] = queue = txn.insert(idl.tables["Queue"])
        queue.other_config = {
            "min-rate": str(wanted.min_bps),
            "max-rate": str(wanted.max_bps),
            "priority": str(wanted.priority),
        }
        queue.external_ids = dict(OWNER)
    qos.queues = queues
    port.qos = [qos]


def _drop_qos(row: Any) -> None:
    queues = [queue for queue in row.queues.values() if is_ours(queue.external_ids)]
    row.delete()
    for queue in queues:
        queue.delete()


def _put_keys(row: Any, column: str, wanted: Mapping[str, str]) -> None:
    present = dict(_value(row, column) or {})
    for key, value in wanted.items():
        if present.get(key) != value:
            row.setkey(column, key, value)


def _value(row: Any, column: str) -> Any:
    """A column of a row; None where the row was made in this transaction and the column not yet written."""
    return getattr(row, column, None)


def _row(idl: Any, table: str, name: str) -> Any:
    return next((row for row in idl.tables[table].rows.values() if row.name == name), None)
