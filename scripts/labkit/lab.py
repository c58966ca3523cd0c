"""A lab: hosts made of namespaces, and the daemons on them, layer by layer.

    with Lab(hosts=2, with_manager=False, with_agents=False, with_libvirt=False) as lab:
        lab.exec("h1", ["ovs-vsctl", "show"])

`up` builds hosts in parallel; whatever ends it before its end (an error, Ctrl-C) takes everything down again. `down`
needs no memory (`teardown`): it may be called at any time, by any process, more than once.

A lab made as a context manager belongs to its process: a reaper ends it when that process dies, even by SIGKILL.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from subprocess import CompletedProcess
from types import TracebackType
from typing import Any, Self

from scripts.labkit import hypervisor, layers, processes, reaper, state, switch, wires
from scripts.labkit.errors import LabError
from scripts.labkit.node import REPOSITORY, Node, NodeProcess
from scripts.labkit.patience import patient
from scripts.labkit.state import MANAGER, Endpoint, LabSpec, LabState
from scripts.labkit.teardown import kill_all, tear_down

__all__ = ["Lab"]

_FABRIC = "fabric"
_AT_ONCE = 8  # hosts that are made at a time: of more, each is as late as the last


class Lab:
    """One lab, made by us or found running (`Lab.find`)."""

    def __init__(
        self,
        name: str | None = None,
        *,
        hosts: int = 2,
        with_manager: bool = True,
        with_libvirt: bool = True,
        with_agents: bool = True,
        with_vmctl: bool | None = None,
        zones: Mapping[str, str] | None = None,
        underlay_mtu: int = 1700,
        pnics: int = 1,
        datapath: str | None = None,
        store: str | None = None,
        dummy_ports: bool = False,
        agent_settings: Mapping[str, str] | None = None,
        progress: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """Describe a lab; `up` makes it. *name* None takes a fresh one. *with_vmctl* None means: where it can work.

        *datapath* None means the kernel's where it has Open vSwitch, else user space (`switch.choose_datapath`).
        """
        spec = LabSpec(
            name=name or f"t-{os.getpid() % 100000}-{secrets.token_hex(2)}",
            hosts=hosts,
            manager=with_manager,
            libvirt=with_libvirt,
            agents=with_agents,
            vmctl=with_manager and with_libvirt and with_agents if with_vmctl is None else with_vmctl,
            zones=dict(zones or {}),
            underlay_mtu=underlay_mtu,
            pnics=pnics,
            datapath=switch.choose_datapath(datapath),
            store=store,
            dummy_ports=dummy_ports,
            agent_settings=dict(agent_settings or {}),
        )
        self._state = LabState(spec=spec)
        self._progress = progress
        self._nodes: dict[str, Node] = {}
        self._lock = threading.Lock()
        self._reaper: reaper.Reaper | None = None

    @classmethod
    def find(cls, name: str) -> Lab:
        """The running lab of that name. Raises LabError when there is none."""
        found = state.read(name)
        if found is None:
            known = ", ".join(state.names()) or "none"
            raise LabError(f"no lab {name!r} here (labs: {known}); `lab up --name {name}` makes it")
        lab = cls.__new__(cls)
        lab._state, lab._progress, lab._lock, lab._reaper = found, lambda sentence: None, threading.Lock(), None
        lab._nodes = {n: Node(lab=name, name=n, directory=lab.directory / n, init=i) for n, i in found.nodes.items()}
        return lab

    # --- life ---------------------------------------------------------------------------------------------------

    def up(self, *, owned: bool = False) -> Self:
        """Make the lab. With *owned*, it ends with this process. On any failure nothing of it is left."""
        if os.geteuid() != 0:
            raise LabError("a lab needs root: it makes network namespaces")
        try:
            self._claim_directory()
        except FileExistsError:
            raise LabError(
                f"lab {self.name} exists; `lab down --name {self.name}` ends it, or take another name"
            ) from None
        try:
            self._reaper = reaper.start(self.name)
            self._state.owner = processes.identify(os.getpid()) if owned else None
            state.write(self._state)
            self._build()
            if not owned:
                self._dismiss_reaper()
        except BaseException:
            self.down()
            raise
        return self

    def down(self) -> None:
        """End the lab, whatever state it is in. Raises LabError when something would not go."""
        tear_down(self.name)
        self._dismiss_reaper()
        self._nodes.clear()

    def __enter__(self) -> Self:
        return self.up(owned=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # --- what it is made of -------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._state.spec.name

    @property
    def spec(self) -> LabSpec:
        return self._state.spec

    @property
    def datapath(self) -> str:
        """What bridges of this lab want as their `datapath_type`."""
        return self.spec.datapath

    @property
    def directory(self) -> Path:
        return state.base_directory() / self.name

    @property
    def hosts(self) -> tuple[str, ...]:
        return state.host_names(self.spec.hosts)

    @property
    def node_names(self) -> tuple[str, ...]:
        """Hosts, then the managers' node, the fabric and endpoints, as far as they were made."""
        return tuple(sorted(self._nodes, key=lambda n: ([*self.hosts, MANAGER, _FABRIC, n].index(n), n)))

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(self._state.endpoints.values())

    def node(self, name: str) -> Node:
        """A host, the manager's node (`mgr`), the `fabric` or an endpoint."""
        try:
            return self._nodes[name]
        except KeyError:
            raise LabError(
                f"lab {self.name} has no {name!r}; it has {', '.join(self.node_names) or 'nothing running'}"
            ) from None

    def host_dir(self, host: str) -> Path:
        """The directory of a host: `host_dir("h1") / "var/log/openvswitch"` is its /var/log/openvswitch."""
        return self.node(host).directory

    def path(self, host: str, inside: str) -> Path:
        """Where a path inside the host lies outside: `path("h1", "/run/openvswitch/db.sock")`."""
        return self.node(host).path(inside)

    def address(self, host: str) -> str:
        """Management address of a host or of `mgr`."""
        return wires.management_address(self.node(host).name)

    # --- use ----------------------------------------------------------------------------------------------------

    def exec(self, host: str, command: Sequence[str], *, check: bool = True, **options: Any) -> CompletedProcess[str]:
        """Run a command on a host to its end. LabError with its words on a non-zero exit, unless not *check*."""
        return self.node(host).exec(command, check=check, **options)

    def popen(self, host: str, command: Sequence[str], **options: Any) -> NodeProcess:
        """Start a command on a host; it dies with us. Options of `subprocess.Popen`."""
        return self.node(host).popen(command, **options)

    def start_daemon(self, host: str, daemon: str) -> None:
        """Start one of `layers.DAEMONS` on a host or `mgr`; returns when it is ready."""
        layers.start_daemon(self, self.node(host), daemon)

    def stop_daemon(self, host: str, daemon: str, *, number: signal.Signals = signal.SIGTERM) -> None:
        """End a daemon (SIGKILL for a crash); returns when it is gone. Nothing starts it again."""
        layers.stop_daemon(self.node(host), daemon, number=number)

    def crash(self, name: str) -> None:
        """Pull a node's plug: everything on it ends at once, its disk stays. `boot` brings the host back."""
        self.node(name).kill()

    def boot(self, host: str) -> None:
        """Start a crashed host or `mgr` again: new boot id, same disk, its daemons in the order of `up`."""
        if self.node(host).running:
            raise LabError(f"{host} of lab {self.name} is running; `lab crash {host}` pulls its plug")
        if host not in (*self.hosts, MANAGER):
            raise LabError(f"{host} is neither a host nor {MANAGER}; attach an endpoint anew instead")
        shutil.rmtree(self.node(host).directory / "run", ignore_errors=True)
        if host == MANAGER:
            self._manager(host, fresh=False)
            if self.spec.vmctl:
                self.start_daemon(MANAGER, "vmctl")
            return
        self._bare_host(host)
        self._upper_layers(host, fresh=False)

    def guest(self, vm: str, command: Sequence[str], *, timeout_s: float = 60.0) -> CompletedProcess[str]:
        """Run a command in a guest, on whichever host it runs: exit code and output of its console."""
        from scripts.labkit import console  # needs libvirt's bindings, which a bare lab does not

        uris = {host: hypervisor.local_uri(self.node(host)) for host in self.hosts}
        host = console.running_on(vm, uris)
        return console.talk(vm, command, host=host, uri=uris[host], timeout_s=timeout_s)

    def start_ping(self, node: str, address: str, *, interval_ms: float = 5.0) -> NodeProcess:
        """An exact ping from an endpoint or host (`pinger`), until `stop_ping`; returns when it has begun."""
        command = [sys.executable, "-m", "scripts.labkit.pinger", address, "--interval-ms", str(interval_ms)]
        ping = self.popen(node, [*command, "--announce"], cwd=str(REPOSITORY), stdout=subprocess.PIPE, text=True)
        assert ping.stdout is not None
        if not ping.stdout.readline():
            raise LabError(f"the ping of {address} from {node} of lab {self.name} ended before it began")
        return ping

    def stop_ping(self, ping: NodeProcess) -> dict[str, Any]:
        """End a ping; what it saw: `gap_ms`, `lost`, `duplicates` and more (`pinger.Result`)."""
        ping.terminate()
        out, _ = ping.communicate(timeout=patient(10))
        result: dict[str, Any] = json.loads(out)
        return result

    def attach(
        self,
        host: str,
        endpoint: str,
        *,
        bridge: str,
        vif_uuid: str,
        mac: str,
        addresses: Sequence[str] = (),
        mtu: int = 1500,
    ) -> Node:
        """Plug a new network-namespace endpoint into a host's bridge; commands run in it by its name."""
        if endpoint in self._nodes or not endpoint.isalnum() or len(endpoint) > 10:
            taken = ", ".join(self.node_names)
            raise LabError(f"endpoint {endpoint!r}: wanted up to 10 letters and digits, and not one of {taken}")
        if host not in self.hosts:
            raise LabError(f"endpoint {endpoint}: no host {host!r} in lab {self.name}; hosts: {', '.join(self.hosts)}")
        value = Endpoint(name=endpoint, host=host, bridge=bridge, device=f"ep-{endpoint}", vif_uuid=vif_uuid, mac=mac)
        node = self._start_node(endpoint)
        try:
            wires.plug_endpoint(
                value, host=self.node(host), node=node, addresses=addresses, mtu=mtu, offload=self._offload
            )
        except BaseException:
            self._end_node(endpoint)
            raise
        self._state.endpoints[endpoint] = value
        state.write(self._state)
        return node

    def detach(self, endpoint: str) -> None:
        """Unplug an endpoint and end it."""
        value = self._state.endpoints.pop(endpoint, None)
        if value is None:
            raise LabError(
                f"lab {self.name} has no endpoint {endpoint!r}; it has {', '.join(self._state.endpoints) or 'none'}"
            )
        wires.unplug_endpoint(value, host=self.node(value.host))
        self._end_node(endpoint)

    @property
    def _offload(self) -> bool:
        return self.datapath == "system"

    def _claim_directory(self) -> None:
        """Make the lab's directory; whoever makes it owns the name."""
        while True:
            with contextlib.suppress(FileNotFoundError):  # another lab's end removed the base meanwhile
                return self.directory.mkdir(mode=0o755)

    # --- building -----------------------------------------------------------------------------------------------

    def _build(self) -> None:
        began = time.monotonic()
        wires.build_fabric(self._start_node(_FABRIC), underlay_mtu=self.spec.underlay_mtu)
        if self.spec.manager:
            self._in_parallel({**dict.fromkeys(self.hosts, self._bare_host), MANAGER: self._manager})
        else:
            self._in_parallel(dict.fromkeys(self.hosts, self._bare_host))
        if self.spec.agents or self.spec.libvirt:
            self._in_parallel(dict.fromkeys(self.hosts, self._upper_layers))
        if self.spec.vmctl:
            self.start_daemon(MANAGER, "vmctl")
            self._in_parallel(dict.fromkeys(self.hosts, lambda host: layers.register_host(self, host)))
        self._progress(f"lab {self.name} is up after {time.monotonic() - began:.1f} s")

    def _bare_host(self, name: str) -> None:
        began = time.monotonic()
        node = self._start_node(name)
        wires.wire(
            node,
            fabric=self.node(_FABRIC),
            underlay_mtu=self.spec.underlay_mtu,
            pnics=self.spec.pnics,
            offload=self._offload,
        )
        self.start_daemon(name, "ovsdb-server")
        self.start_daemon(name, "ovs-vswitchd")
        self._progress(f"{name}: Open vSwitch up after {time.monotonic() - began:.1f} s")

    def _manager(self, name: str, *, fresh: bool = True) -> None:
        began = time.monotonic()
        wires.wire(self._start_node(name), fabric=self.node(_FABRIC), underlay_mtu=None)
        self.start_daemon(name, "netmgr")
        zones = dict.fromkeys(zone for zones in self.spec.zones.values() for zone in zones.split(",")) if fresh else ()
        for zone in zones:
            self.exec(name, ["netmgr", "zone", "create", zone])
        self._progress(f"{name}: network manager up after {time.monotonic() - began:.1f} s")

    def _upper_layers(self, name: str, *, fresh: bool = True) -> None:
        began = time.monotonic()
        # libvirtd looks for hooks when it starts, and joining installs them; then it starts guests that start at boot,
        # and their hooks ask the agent: so join, agent, libvirtd, as the agent's unit orders it.
        if self.spec.agents and fresh:
            layers.join_host(self, name)
        if self.spec.agents:
            self.start_daemon(name, "hostagent")
        if self.spec.libvirt:
            self.start_daemon(name, "libvirtd")
        what = " and ".join(w for w, wanted in (("libvirt", self.spec.libvirt), ("agent", self.spec.agents)) if wanted)
        self._progress(f"{name}: {what} up after {time.monotonic() - began:.1f} s")

    def _start_node(self, name: str) -> Node:
        node = Node(lab=self.name, name=name, directory=self.directory / name)
        others = [MANAGER, *self.hosts]
        node.start(hosts_file="".join(f"{wires.management_address(other)} {other}\n" for other in others))
        assert node.init is not None
        with self._lock:
            self._nodes[name] = node
            self._state.nodes[name] = node.init
            state.write(self._state)
        return node

    def _end_node(self, name: str) -> None:
        node = self._nodes.pop(name)
        node.kill()
        shutil.rmtree(node.directory, ignore_errors=True)
        self._state.nodes.pop(name, None)
        state.write(self._state)

    def _in_parallel(self, jobs: Mapping[str, Callable[[str], None]]) -> None:
        """Run each job with its key; the first error ends the others by pulling their nodes' plugs."""
        with ThreadPoolExecutor(min(len(jobs), _AT_ONCE), thread_name_prefix="lab") as pool:
            futures: list[Future[None]] = [pool.submit(job, name) for name, job in jobs.items()]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                error = next((e for f in done if (e := f.exception())), None)
                if error:
                    raise error
            except BaseException:
                # Their commands end with the nodes, so the threads do not keep us; what one of them
                # makes after this is found by `down`, which follows.
                for future in futures:
                    future.cancel()
                kill_all(self.name)
                raise

    def _dismiss_reaper(self) -> None:
        if self._reaper is not None:
            self._reaper.dismiss()
            self._reaper = None
