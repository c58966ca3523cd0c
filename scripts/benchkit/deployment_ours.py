"""Ours: netmgr with its REST API over mutual TLS on one connection that stays open; a hostagent on each host.

Hosts have no libvirt, as those of the others; `LibvirtOurs` has it, and a libvirt network for each opaque one.
"""

from __future__ import annotations

import json
import signal
import ssl
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar
from urllib.parse import urlencode
from uuid import UUID, uuid4

from netmgr.contract.types import Location, LogicalPort, VtepAssignment
from netmgr.model import HostRecord
from netmgr.store import Store
from scripts.benchkit.deployment import AGENT_S, ELSEWHERE, PORTS_S, RATES_PORT, Deployment
from scripts.benchkit.inside import Inside, Rest, question
from scripts.benchkit.subject import NETWORK_MTU, Port
from scripts.labkit import Lab, LabError
from scripts.labkit.state import MANAGER

__all__ = ["LibvirtOurs", "OursDeployment"]

_ZONE = "a"
_REST_PORT = 7443
_SWITCH = {"name": "bench", "zones": [_ZONE], "pnic_globs": ["pnic*"], "mtu": 1650, "vtep_pool": "10.200.0.0/24"}
_CONTROL = "/run/hostagent/hostagent.sock"
_LOOK_S = 0.01
_PORT_S = 0.01  # for each of thousands of ports, until hosts know it
_SENT_S = 0.05  # by then a change is on its way to every host


class OursDeployment(Deployment):
    """A zone of all hosts; ports with their address, so that all anti-spoof flows are in the way."""

    name = "ours"

    libvirt: ClassVar[bool] = False
    dummies: ClassVar[bool] = False  # whether ports without a device are needed

    @classmethod
    def make_lab(cls) -> Lab:
        zones = {f"h{number}": _ZONE for number in range(1, cls.hosts + 1)}
        return Lab(hosts=cls.hosts, zones=zones, with_libvirt=cls.libvirt, with_vmctl=False, dummy_ports=cls.dummies)

    def build(self) -> None:
        self._uuids: dict[str, str] = {}  # of networks, by name
        self._bridges: dict[str, str] = {}  # by host
        manager = Inside(self.lab.node(MANAGER))
        self.open.callback(manager.close)
        self._call = manager.call
        operator = self.lab.path(MANAGER, "/var/lib/netmgr/operator")
        tls = ssl.create_default_context(cafile=str(operator / "ca.pem"))
        tls.load_cert_chain(operator / "cert.pem", operator / "key.pem")
        address = self.lab.address(MANAGER)
        self._api = Rest(address, _REST_PORT, name="netmgr", tls=tls, timeout_s=AGENT_S)
        self.open.callback(self._api.close)
        self._ask("POST", "switches", {"wait": "realized"}, _SWITCH)

    def create_network(self, name: str) -> None:
        spec = {"name": name, "zone": _ZONE, "mtu": NETWORK_MTU}
        made = self._ask("POST", "networks", {"wait": "realized"}, spec)
        if not made["realization"]["realized"]:
            raise LabError(f"ours: network {name} was not realized: {made['realization']['hosts']}")
        self._uuids[name] = made["uuid"]

    def delete_network(self, name: str) -> None:
        self._ask("DELETE", f"networks/{name}")
        del self._uuids[name]
        self._settle()

    def create_ports(self, network: str, ports: Sequence[Port]) -> None:
        for port in ports:
            spec = {"name": port.vif_uuid, "mac": port.mac, "ips": [port.address], "vif_uuid": port.vif_uuid}
            self._ask("POST", "ports", None, {**spec, "network": network})

    def delete_ports(self, network: str, ports: Sequence[Port]) -> None:
        for port in ports:
            self._ask("DELETE", f"ports/{port.vif_uuid}", {"force": "true"})
        self._settle()

    def protect(self, ports: Sequence[Port]) -> None:
        rules = [
            {"direction": direction, "protocol": protocol, **({} if protocol == "icmp" else {"port_min": RATES_PORT})}
            for direction in ("ingress", "egress")
            for protocol in ("tcp", "udp", "icmp")
        ]
        self._ask("POST", "groups", {"wait": "realized"}, {"name": "rates", "rules": rules})
        for port in ports:
            self._ask("PATCH", f"ports/{port.vif_uuid}", {"wait": "realized"}, {"security_groups": ["rates"]})

    def announce(self, host: str, network: str, ports: Sequence[Port]) -> None:
        """As libvirt's hook does, by its verb, for a guest each."""
        for port in ports:
            words = {"verb": "port-created", "network_uuid": self._uuids[network], "vif_uuid": port.vif_uuid}
            guest = {"mac": port.mac, "vm_uuid": str(uuid4()), "vm_name": "guest"}
            answer = question(self.lab.path(host, _CONTROL), {**words, **guest})
            if not answer["ok"]:
                raise LabError(f"ours: {host} lets no VIF {port.vif_uuid} in: {answer['sentence']}")
        self._settle()

    def bridge(self, host: str) -> str:
        if host not in self._bridges:  # asked once: not while something is measured
            found = self._show(host)["switches"]
            if not found:
                raise LabError(f"ours: {host} has no switch")
            self._bridges[host] = str(found[0]["bridge"])
        return self._bridges[host]

    def put_elsewhere(self, network: str, ports: Sequence[Port], *, hearers: Sequence[str]) -> None:
        store = Store.open(f"sqlite:///{self.lab.path(MANAGER, '/var/lib/netmgr/netmgr.db')}")
        try:
            with store.transaction() as tx:
                carried = next(one for one in tx.world.networks.values() if one.name == network)
                vtep = VtepAssignment(switch_uuid=carried.switch_uuid, address=f"{ELSEWHERE}/24")
                far = HostRecord(uuid=uuid4(), name="far", zone_uuids=(carried.zone_uuid,), vteps=(vtep,))
                tx.put(far)
                for port in ports:
                    made = LogicalPort(
                        uuid=uuid4(),
                        name=port.vif_uuid,
                        network_uuid=carried.uuid,
                        vif_uuid=UUID(port.vif_uuid),
                        mac=port.mac,
                        ips=(port.address,),
                    )
                    tx.put(made)
                    where = Location(port_uuid=made.uuid, network_uuid=carried.uuid, mac=port.mac, version=1)
                    tx.put(replace(where, holder_host=far.uuid, holder_vtep=ELSEWHERE))
        finally:
            store.close()
        self._told(hearers, revision=tx.revision, within_s=AGENT_S + len(ports) * _PORT_S)
        self._settle()

    def await_ports(self, ports: Sequence[Port]) -> None:
        wanted = {port.vif_uuid for port in ports}
        deadline = time.monotonic() + PORTS_S
        while missing := wanted - {vif["vif_uuid"] for vif in self._ask("GET", "vifs", {"state": "lit"})}:
            if time.monotonic() > deadline:
                raise LabError(f"ours: {len(missing)} of {len(wanted)} ports are not lit after {PORTS_S:g} s")
            time.sleep(0.2)
        self._settle()

    def kill_agent(self, host: str) -> None:
        self.lab.stop_daemon(host, "hostagent", number=signal.SIGKILL)

    def start_agent(self, host: str) -> None:
        deadline = time.monotonic() + AGENT_S
        self.lab.start_daemon(host, "hostagent")
        while True:
            sync = self._show(host)["sync"]
            if sync["connected"] and sync["in_sync"]:
                return
            if time.monotonic() > deadline:
                raise LabError(f"ours: the agent of {host} is not in sync after {AGENT_S:g} s: {sync}")
            time.sleep(_LOOK_S)

    def agent_memory_kib(self) -> list[int]:
        return [self.memory_of(host, "/run/lab/hostagent.pid") for host in self.lab.hosts]

    def manager_memory_kib(self) -> int:
        return self.memory_of(MANAGER, "/run/lab/netmgr.pid")

    def _settle(self) -> None:
        """Wait until every host has confirmed the newest: what a sample left behind is not in the next one's way."""
        deadline = time.monotonic() + AGENT_S
        time.sleep(_SENT_S)
        while not all(host["in_sync"] for host in self._ask("GET", "hosts") if host["name"] in self.lab.hosts):
            if time.monotonic() > deadline:
                raise LabError(f"ours: hosts are not in sync {AGENT_S:g} s after a removal; see `netmgr host list`")
            time.sleep(_SENT_S)

    def _told(self, hosts: Collection[str], *, revision: int, within_s: float) -> None:
        """Wait until *hosts* have confirmed *revision*: it was written past the manager, which hears of it late."""
        deadline = time.monotonic() + within_s
        while late := [
            host["name"]
            for host in self._ask("GET", "hosts")
            if host["name"] in hosts and host["acked_revision"] < revision
        ]:
            if time.monotonic() > deadline:
                raise LabError(f"ours: {', '.join(late)} did not confirm revision {revision} within {within_s:g} s")
            time.sleep(_SENT_S)

    def _show(self, host: str) -> dict[str, Any]:
        return question(self.lab.path(host, _CONTROL), {"verb": "show"})

    def _ask(self, method: str, path: str, query: dict[str, str] | None = None, body: Any = None) -> Any:
        where = f"/api/v1/{path}{f'?{urlencode(query)}' if query else ''}"
        try:
            status, answer = self._call(partial(self._api.ask, method, where, body))
        except OSError as error:
            raise LabError(f"ours: {method} {path} was not answered: {error}") from None
        if not 200 <= status < 300:
            raise LabError(f"ours: {method} {path} was answered {status}: {answer[:300].decode(errors='replace')}")
        return json.loads(answer) if answer else None


class LibvirtOurs(OursDeployment):
    """Hosts with libvirt: a network is there when libvirt has it too."""

    libvirt = True
