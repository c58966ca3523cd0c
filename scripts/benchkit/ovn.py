"""`ovn`: OVN as its users run it for live migration, with Debian's packages.

Theory of operation (ovn-nb(5), options of a logical switch port). For the time of a move the port is requested on both
chassis; traffic for it goes to both, and `activation-strategy=rarp` keeps the destination's tap blocked until QEMU has
announced the guest there. After the move the port is requested on the destination alone. That is what OpenStack does.

The central databases and northd run on h3, the host that the guest never visits; they are idle during a move but for
what it gives them to do. Every host has an ovn-controller. All of it lives under the node's own /run and /var/lib.

Some chassis never acknowledge until the next change comes (seen with 23.03), so each wait is bounded, and is followed
by a nudge before it is an error.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from scripts.benchkit.plain import BRIDGE, bare_switches, build_uplinks, random_port, vtep
from scripts.benchkit.subject import MOVERS, Port, Subject, define_network, eventually
from scripts.labkit import Lab, LabError

__all__ = ["CENTRAL", "CONTROLLER", "START_CONTROLLER", "Ovn"]

CENTRAL = "h3"
CONTROLLER = "/run/ovn/ovn-controller.pid"
_WAIT_S = 10
_LOGGING = "--log-file --verbose=console:off --verbose=syslog:off"

_START_CENTRAL = f"""
set -e
mkdir -p /run/ovn /var/lib/ovn /var/log/ovn
for db in nb sb; do
    ovsdb-tool create /var/lib/ovn/$db.db /usr/share/ovn/ovn-$db.ovsschema
    port=6641; [ $db = nb ] || port=6642
    OVS_RUNDIR=/run/ovn ovsdb-server /var/lib/ovn/$db.db \\
        --remote=punix:/run/ovn/ovn${{db}}_db.sock --remote=ptcp:$port \\
        --unixctl=/run/ovn/ovn${{db}}_db.ctl --pidfile=/run/ovn/ovn${{db}}_db.pid --detach --no-chdir \\
        --log-file=/var/log/ovn/$db.log --verbose=console:off --verbose=syslog:off
done
ovn-nbctl --timeout={_WAIT_S} init
ovn-sbctl --timeout={_WAIT_S} init
ovn-northd --ovnnb-db=unix:/run/ovn/ovnnb_db.sock --ovnsb-db=unix:/run/ovn/ovnsb_db.sock \\
    --pidfile --detach --no-chdir {_LOGGING}
"""
START_CONTROLLER = f"""
mkdir -p /run/ovn /var/log/ovn
exec ovn-controller unix:/run/openvswitch/db.sock --pidfile --detach --no-chdir {_LOGGING}
"""


class Ovn(Subject):
    """A logical switch; a port for each VIF, with its MAC and address."""

    name = "ovn"
    switch = "bench"

    @staticmethod
    def make_lab(progress: Callable[[str], None], *, libvirt: bool = True, hosts: int = 3) -> Lab:
        missing = [tool for tool in ("ovn-nbctl", "ovn-northd", "ovn-controller") if shutil.which(tool) is None]
        if missing:
            raise LabError(f"{', '.join(missing)} not found; `scripts/install.sh --bench` installs OVN")
        return bare_switches(progress, libvirt=libvirt, hosts=hosts)

    def build(self) -> None:
        build_uplinks(self.lab)
        self.lab.exec(CENTRAL, ["/bin/sh", "-c", _START_CENTRAL])
        for host in self.lab.hosts:
            ids = {
                "system-id": host,
                "ovn-remote": f"tcp:{self.lab.address(CENTRAL)}:6642",
                "ovn-encap-type": "geneve",
                "ovn-encap-ip": vtep(host),
                "ovn-bridge-datapath-type": self.lab.datapath,
            }
            words = [f'external_ids:{key}="{value}"' for key, value in ids.items()]
            self.lab.exec(host, ["ovs-vsctl", "--timeout=10", "set", "Open_vSwitch", ".", *words])
            self.lab.exec(host, ["/bin/sh", "-c", START_CONTROLLER])
        self._nb("ls-add", self.switch)
        for host in self.lab.hosts:
            made = partial(self._has_bridge, host)
            eventually(made, within_s=30, otherwise=f"ovn-controller of {host} did not make {BRIDGE}")
        for host in MOVERS:
            define_network(self.lab, host, name=self.network, bridge=BRIDGE)

    def port(self, name: str, address: str) -> Port:
        port = random_port(address)
        self._nb(
            "lsp-add", self.switch, port.vif_uuid, "--", "lsp-set-addresses", port.vif_uuid, f"{port.mac} {address}"
        )
        return port

    def bridge(self, host: str) -> str:
        return BRIDGE

    def peer_attached(self, endpoint: str, host: str, port: Port) -> None:
        self._await_chassis(port, host)

    def guest_started(self, host: str, port: Port) -> None:
        self._nb("lsp-set-options", port.vif_uuid, f"requested-chassis={host}")
        self._await_chassis(port, host)

    def before_move(self, port: Port, source: str, destination: str) -> None:
        both = f"requested-chassis={source},{destination}"
        self._nb("lsp-set-options", port.vif_uuid, both, "activation-strategy=rarp")
        self._sync()

    def after_move(self, port: Port, source: str, destination: str) -> None:
        self._nb("lsp-set-options", port.vif_uuid, f"requested-chassis={destination}")
        self._await_chassis(port, destination)

    def _await_chassis(self, port: Port, host: str) -> None:
        """The port is on *host* and nowhere else, and every chassis has heard of it."""
        wanted = self._chassis()[host]

        def there() -> bool:
            found = self._sb("--columns=chassis,additional_chassis,up", "find", "Port_Binding", port.vif_uuid)
            return bool(found) and found[0] == [["uuid", wanted], ["set", []], True]

        with suppress(LabError):
            eventually(there, within_s=_WAIT_S, otherwise="not bound")
        if not there():
            self._sync()
            eventually(there, within_s=_WAIT_S, otherwise=f"OVN did not bind {port.vif_uuid} to {host} alone")
        self._sync()

    def _chassis(self) -> dict[str, str]:
        return {name: uuid for (_, uuid), name in self._sb("--columns=_uuid,name", "list", "Chassis", "")}

    def _sb(self, columns: str, verb: str, table: str, logical_port: str) -> list[list[Any]]:
        condition = [f"logical_port={logical_port}"] if logical_port else []
        command = ["ovn-sbctl", f"--timeout={_WAIT_S}", "--format=json", columns, verb, table, *condition]
        rows: list[list[Any]] = json.loads(self.lab.exec(CENTRAL, command).stdout)["data"]
        return rows

    def _sync(self) -> None:
        """Wait until every chassis has acknowledged, but not for ever: some do only with the next change."""
        self.lab.exec(CENTRAL, ["ovn-nbctl", "--wait=hv", f"--timeout={_WAIT_S}", "sync"], check=False)

    def _nb(self, *words: str) -> None:
        self.lab.exec(CENTRAL, ["ovn-nbctl", f"--timeout={_WAIT_S}", *words])

    def _has_bridge(self, host: str) -> bool:
        return self.lab.exec(host, ["ovs-vsctl", "--timeout=10", "br-exists", BRIDGE], check=False).returncode == 0
