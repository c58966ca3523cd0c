"""One carrier at work: its lab, the network `bench`, a listening VIF on h2; one sample of each measure.

VIFs that speak are plugged on h1. All ports are defined with their MAC and address, and neither side accepts another
from them. What a sample needs is made before its clock starts, and removed after it has stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Address
from itertools import count
from typing import Any

from scripts.benchkit.deployment import RATES_PORT, Carrier, Deployment
from scripts.benchkit.inside import Tap
from scripts.benchkit.plain import random_port
from scripts.benchkit.subject import NETWORK_MTU, Port
from scripts.benchkit.vifs import Vif, first_frames, plug, plug_dummies, speech, unplug
from scripts.labkit import Lab, LabError
from scripts.labkit.layers import DAEMONS

__all__ = ["CROWD", "NetworkRig"]

CROWD = 500
_SPEAKER, _LISTENER = "h1", "h2"
_OPEN, _GROUPED = "end", "grp"  # endpoints, by whether their ports have security groups
_FIRST_ADDRESS = IPv4Address("10.30.0.20")
_PREFIX = 16
_REACHED_S, _CROWD_S = 30.0, 120.0
_TIMED_OUT = 124  # timeout(1)
_SWITCH = DAEMONS["ovs-vswitchd"]
_SPAN_S = 2  # of a sample of a rate: first seconds alone vary by 4 to 8 %, two by 3 to 6
_REST_S = 5.0  # from an agent in sync to one that has given back what its start needed


class NetworkRig:
    """A carrier that is up. Each measure's method returns one sample in the measure's unit."""

    network = "bench"

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.lab: Lab = carrier.lab
        self._numbers = count()
        self._ends: dict[bool, dict[str, Port]] = {}
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="plug")
        carrier.open.callback(self._beside.shutdown)

    @property
    def name(self) -> str:
        return self.carrier.name

    def place(self) -> None:
        """Manager, agents, the network and the listener; returns when the listener is reached from h1."""
        self.carrier.build()
        self.carrier.create_network(self.network)
        self._listener = self._vif(_LISTENER)
        plug(self.carrier, _LISTENER, [self._listener])
        self.carrier.listening(_LISTENER, self._listener.tap.name, speaker=_SPEAKER)
        self.vif_first_frame_unannounced()

    def carry(self, number: int) -> None:
        """*number* ports more, evenly on all hosts; returns when all are up."""
        ports = [self._port() for _ in range(number)]
        self.carrier.create_ports(self.network, ports)
        hosts = self.lab.hosts
        for place, host in enumerate(hosts):
            plug_dummies(self.carrier, host, ports[place :: len(hosts)])
        self.deployment.await_ports(ports)

    def surround(self, number: int) -> None:
        """*number* ports on a host that is not there, and one here that may hear of them."""
        plug(self.carrier, _SPEAKER, [self._vif(_SPEAKER)])
        far = [self._port() for _ in range(number)]
        self.deployment.put_elsewhere(self.network, far, hearers=(_SPEAKER, _LISTENER))

    def revive(self) -> list[str]:
        """Start the switches again that have ended by themselves, as their units would; the hosts of these."""
        ended = [host for host in self.lab.hosts if self.lab.node(host).daemon(_SWITCH.pidfile) is None]
        for host in ended:
            self.lab.start_daemon(host, _SWITCH.name)
        return ended

    # --- one sample of each ----------------------------------------------------------------------------------------

    def network_create(self) -> float:
        name = f"net-{next(self._numbers)}"
        began = time.monotonic()
        self.carrier.create_network(name)
        took = time.monotonic() - began
        self.carrier.delete_network(name)
        return _ms(took)

    def vif_first_frame(self) -> float:
        vif = self._vif(_SPEAKER)
        if isinstance(self.carrier, Deployment):
            self.carrier.announce(_SPEAKER, self.network, [vif.port])
        return self._first_frame(vif)

    def vif_first_frame_unannounced(self) -> float:
        """The same of a VIF of which its host hears when it is plugged."""
        return self._first_frame(self._vif(_SPEAKER))

    def _first_frame(self, vif: Vif) -> float:
        took = self._plug_and_hear([vif], _REACHED_S)
        self._remove([vif])
        return _ms(took)

    def _plug_and_hear(self, vifs: list[Vif], within_s: float) -> float:
        """Seconds until the listener has had a frame of each. Guests speak from the first moment: they know nothing of
        the database that is being told of their taps."""
        frames = speech(vifs, self._listener)
        began = time.monotonic()
        plugging = self._beside.submit(plug, self.carrier, _SPEAKER, vifs)
        took = first_frames(frames, self._listener, began=began, within_s=within_s)
        plugging.result()
        return took

    def crowd(self) -> tuple[float, float]:
        """Samples of `attach_500` and, with those VIFs there, of `cold_start_500`."""
        vifs = self._vifs(_SPEAKER, CROWD)
        attached = self._plug_and_hear(vifs, _CROWD_S)
        started = self.cold_start()
        self._remove(vifs)
        return _ms(attached), started

    def cold_start(self) -> float:
        """An agent is killed and started again."""
        self.deployment.kill_agent(_SPEAKER)
        began = time.monotonic()
        self.deployment.start_agent(_SPEAKER)
        return _ms(time.monotonic() - began)

    def restart(self) -> tuple[float, float]:
        """Samples of a cold start, and of what the agent holds once it has come to rest."""
        started = self.cold_start()
        time.sleep(_REST_S)
        return started, float(self.deployment.agent_memory_kib()[self.lab.hosts.index(_SPEAKER)])

    def throughput(self, *, groups: bool = False) -> float:
        """Mbit/s that the receiver of one TCP connection gets."""
        found = self._iperf("--length=128K", groups=groups)
        return round(float(found["end"]["sum_received"]["bits_per_second"]) / 1e6, 1)

    def throughput_groups(self) -> float:
        """The same between ports with stateful security groups."""
        return self.throughput(groups=True)

    def packets_per_s_groups(self) -> float:
        """`packets_per_s` between ports with stateful security groups."""
        return self.packets_per_s(groups=True)

    def packets_per_s(self, *, groups: bool = False) -> float:
        """Datagrams of 64 bytes that arrive in a second when as many are sent as can be."""
        found = self._iperf("--udp", "--bandwidth=0", "--length=64", groups=groups)["end"]["sum"]
        return float(round((found["packets"] - found["lost_packets"]) / float(found["seconds"])))

    @property
    def deployment(self) -> Deployment:
        assert isinstance(self.carrier, Deployment), f"{self.name} has no agents"
        return self.carrier

    # --- inside ----------------------------------------------------------------------------------------------------

    def _vif(self, host: str) -> Vif:
        return self._vifs(host, 1)[0]

    def _vifs(self, host: str, number: int) -> list[Vif]:
        ports = [self._port() for _ in range(number)]
        self.carrier.create_ports(self.network, ports)
        return [Vif(port=port, tap=Tap(self.carrier.on[host], f"tap{next(self._numbers)}")) for port in ports]

    def _port(self) -> Port:
        return random_port(str(_FIRST_ADDRESS + next(self._numbers)))

    def _remove(self, vifs: list[Vif]) -> None:
        unplug(self.carrier, _SPEAKER, vifs)
        self.carrier.delete_ports(self.network, [vif.port for vif in vifs])

    def _iperf(self, *words: str, groups: bool) -> dict[str, Any]:
        ends = self._endpoints(groups=groups)
        endpoint = _GROUPED if groups else _OPEN
        server = ends[_LISTENER]
        with self._apart() as (here, there), self._serving(f"{endpoint}{_LISTENER}", there):
            command = [*_on(here), "iperf3", "--client", server.address, "--json", f"--time={_SPAN_S}", *words]
            done = self.lab.exec(f"{endpoint}{_SPEAKER}", command, check=False, timeout_s=_SPAN_S + 20)
        found: dict[str, Any] = json.loads(done.stdout)
        if "error" in found:
            raise LabError(f"{self.name}: iperf3 to {server.address}: {found['error']}")
        return found

    @contextmanager
    def _serving(self, endpoint: str, core: int | None) -> Iterator[None]:
        command = [*_on(core), "iperf3", "--server", "--one-off"]
        server = self.lab.popen(endpoint, command, stdout=subprocess.DEVNULL)
        try:
            _until(lambda: bool(self.lab.exec(endpoint, ["ss", "-Hltn", f"sport = :{RATES_PORT}"]).stdout))
            yield
        finally:
            server.terminate()
            server.wait()

    @contextmanager
    def _apart(self) -> Iterator[tuple[int | None, int | None]]:
        """Each of the two hosts' switches on a core of its own, its guest on the same; none where there is one core.

        Else rates are those of what the scheduler puts beside each other: 600 to 1,200 Mbit/s, by the second.
        """
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            yield None, None
            return
        here, there = cores[:2]
        try:
            self._keep_switch(_SPEAKER, {here})
            self._keep_switch(_LISTENER, {there})
            yield here, there
        finally:
            for host in (_SPEAKER, _LISTENER):
                self._keep_switch(host, set(cores))

    def _keep_switch(self, host: str, cores: set[int]) -> None:
        switch = self.carrier.daemon_of(host, _SWITCH.pidfile)
        for thread in os.listdir(f"/proc/{switch.pid}/task"):
            os.sched_setaffinity(int(thread), cores)

    def _endpoints(self, *, groups: bool) -> dict[str, Port]:
        """Namespaces with a VIF each, made at the first question and kept; *groups*: their ports have them."""
        if groups in self._ends:
            return self._ends[groups]
        ends = {host: self._port() for host in (_SPEAKER, _LISTENER)}
        endpoint = _GROUPED if groups else _OPEN
        self.carrier.create_ports(self.network, list(ends.values()))
        if groups:
            self.deployment.protect(list(ends.values()))
        for host, port in ends.items():
            self.lab.attach(
                host,
                f"{endpoint}{host}",
                bridge=self.carrier.bridge(host),
                vif_uuid=port.vif_uuid,
                mac=port.mac,
                addresses=[f"{port.address}/{_PREFIX}"],
                mtu=NETWORK_MTU,
            )
        self.carrier.attached({host: (f"ep-{endpoint}{host}", port) for host, port in ends.items()})
        reached = ["ping", "-c1", "-W1", ends[_LISTENER].address]
        _until(lambda: self.lab.exec(f"{endpoint}{_SPEAKER}", reached, check=False).returncode == 0)
        if groups:
            self._assert_judged(ends[_LISTENER])
        self._ends[groups] = ends
        return ends

    def _assert_judged(self, server: Port) -> None:
        """What no rule allows gets no answer, not even a refusal: else these figures would be of nothing."""
        script = f"exec 3<>/dev/tcp/{server.address}/{RATES_PORT + 1}"
        tried = self.lab.exec(f"{_GROUPED}{_SPEAKER}", ["timeout", "1", "bash", "-c", script], check=False)
        if tried.returncode != _TIMED_OUT:
            raise LabError(f"{self.name}: groups let through what no rule allows: {tried.stderr.strip()}")


def _on(core: int | None) -> list[str]:
    return ["taskset", "--cpu-list", str(core)] if core is not None else []


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _REACHED_S
    while not true():
        if time.monotonic() > deadline:
            raise LabError(f"endpoints do not reach each other within {_REACHED_S:g} s")
        time.sleep(0.05)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
