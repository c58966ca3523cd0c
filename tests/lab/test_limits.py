"""Limits of ports and shares of PNICs, measured on real switches: bytes that arrive of those that were offered.

Over IPv4 by one PNIC, and over IPv6 by two that are teamed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from uuid import uuid4

import pytest

from scripts.labkit import Lab
from scripts.labkit.patience import patient
from tests.support.agent_words import agent_shows
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

APPLY = """
switches:
- {{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: "{pool}", teaming: active-backup}}
networks: [{{name: blue, type: vxlan, zone: a, mtu: 1450}}]
"""
OFFERED, SECONDS, SIZE = 2500, 2.0, 1000  # datagrams: 10 Mbit/s
BURST_KBIT = 600
VIEW_PORT = 9445  # not the default

# Sends datagrams at an even pace once it is told to; prints how long it took.
SEND = f"""
import socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
print("ready", flush=True)
sys.stdin.readline()
begin = time.monotonic()
for i in range({OFFERED}):
    s.sendto(bytes({SIZE}), (sys.argv[1], 9999))
    time.sleep(max(0, begin + (i + 1) * {SECONDS} / {OFFERED} - time.monotonic()))
print(time.monotonic() - begin)
"""
# Counts datagrams until none has come for a second; prints how many, and how many in the time in which they were sent.
# On the kernel's datapath a sender on the host itself waits while its queue is full: all its frames come, but later.
COUNT = f"""
import socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
s.bind((sys.argv[1], 9999))
print("ready", flush=True)
s.settimeout(30)
count, in_time, end = 0, 0, None
try:
    while s.recv(2000):
        end = end or time.monotonic() + {SECONDS}
        count += 1
        in_time += time.monotonic() < end
        s.settimeout(1)
except TimeoutError:
    print(count, in_time)
"""

# Once it is told to, sends by TCP what goes for as long as datagrams are sent; the other end prints how many bytes
# have come.
PUSH = f"""
import socket, sys, time
s = socket.create_connection((sys.argv[1], {VIEW_PORT}))
print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + {SECONDS}
while time.monotonic() < end:
    s.sendall(bytes(1000))
"""
TAKE = f"""
import socket, sys
s = socket.create_server((sys.argv[1], {VIEW_PORT}), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("ready", flush=True)
s.settimeout(30)
connection, _ = s.accept()
connection.settimeout(30)
count = 0
while data := connection.recv(1 << 16):
    count += len(data)
print(count)
"""


class Pair:
    """Endpoints `one` on h1, `two` and `three` on h2, on network blue."""

    def __init__(self, lab: Lab, pool: str) -> None:
        self.lab = lab
        self.netmgr("apply", "-f", "/dev/stdin", "--wait", "realized", input=APPLY.format(pool=pool))
        bridge = agent_shows(lab, "h1")["switches"][0]["bridge"]
        self.vtep = agent_shows(lab, "h2")["switches"][0]["vteps"][0]
        for host, name, number in (("h1", "one", 1), ("h2", "two", 2), ("h2", "three", 3)):
            vif, mac, address = str(uuid4()), f"52:54:00:00:00:{number:02x}", f"10.10.0.{number}"
            self.netmgr("port", "create", name, "--network", "blue", "--mac", mac, "--vif", vif)
            lab.attach(host, name, bridge=bridge, vif_uuid=vif, mac=mac, addresses=[f"{address}/24"], mtu=1450)
        assert within(5, lambda: self._answers("10.10.0.2") and self._answers("10.10.0.3"))

    def _answers(self, address: str) -> bool:
        return self.lab.exec("one", ["ping", "-c1", "-W1", address], check=False).returncode == 0

    def netmgr(self, *words: str, **options: Any) -> str:
        return self.lab.exec("mgr", ["netmgr", *words], **options).stdout

    def set(self, *words: str) -> None:
        """Change something, and wait until the hosts have done it."""
        self.netmgr(*words)
        assert within(5, lambda: all(self._in_order(host) for host in ("h1", "h2")))

    def serve_view(self, host: str, port: int) -> None:
        """Start the agent of *host* again, with another port for its view, and wait as above."""
        self.lab.spec.agent_settings["HOSTAGENT_RUN_VIEW_PORT"] = str(port)
        self.lab.stop_daemon(host, "hostagent")
        self.lab.start_daemon(host, "hostagent")
        del self.lab.spec.agent_settings["HOSTAGENT_RUN_VIEW_PORT"]
        assert within(10, lambda: self._in_order(host))

    @contextmanager
    def without(self, pnic: str) -> Iterator[None]:
        """h1 has lost that PNIC's link, and goes by the other."""
        self.lab.exec("fabric", ["ip", "link", "set", f"h1-{pnic}", "down"])
        try:
            assert within(5, lambda: self._answers("10.10.0.2"))
            yield
        finally:
            self.lab.exec("fabric", ["ip", "link", "set", f"h1-{pnic}", "up"])

    def _in_order(self, host: str) -> bool:
        return self.lab.exec(host, ["hostagent", "verify"], check=False).returncode == 0

    def limited(self, host: str) -> set[tuple[str, str, str]]:
        """Port, network and reason of the drops that *host* tells of a rate limit."""
        told = json.loads(self.lab.exec(host, ["hostagent", "drops", "-o", "json"]).stdout)
        rows = [drop for drop in told if drop["reason"].startswith("rate limit")]
        assert all(row["packets"] > 0 for row in rows)
        return {(row["port"], row["network"], row["reason"]) for row in rows}

    def stream(self, source: str, sink: str, address: str) -> Stream:
        made = Stream(self.lab, source, sink, address)
        made.go()
        return made

    def together(self, *ways: tuple[str, str, str], control: tuple[str, str, str] | None = None) -> list[Stream]:
        """Streams, and one as agents and managers talk, that begin at the same time: to start one takes a while."""
        made = [Stream(self.lab, *way) for way in ways]
        if control is not None:
            made.append(Stream(self.lab, *control, programs=(PUSH, TAKE)))
        for stream in made:
            stream.go()
        return made


class Stream:
    """Datagrams on their way from one node to another, or what *programs* send and count."""

    def __init__(
        self, lab: Lab, source: str, sink: str, address: str, *, programs: tuple[str, str] = (SEND, COUNT)
    ) -> None:
        pipe: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._sink = lab.popen(sink, [sys.executable, "-c", programs[1], address], **pipe)
        self._ready(self._sink)
        self._source = lab.popen(source, [sys.executable, "-c", programs[0], address], **pipe)
        self._ready(self._source)

    def _ready(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"

    def go(self) -> None:
        """Begin to send."""
        assert self._source.stdin is not None
        self._source.stdin.write("\n")
        self._source.stdin.flush()

    def end(self) -> tuple[int, float]:
        """Datagrams, or bytes, that have arrived, and for how many seconds they were sent."""
        sent, _ = self._source.communicate(timeout=patient(60))
        received, *in_time = map(int, self._sink.communicate(timeout=patient(60))[0].split())
        self._in_time = in_time[0] if in_time else received
        return received, float(sent or SECONDS)

    def share(self) -> int:
        """Datagrams that arrived while they were sent."""
        self.end()
        return self._in_time


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    pnics, pool = request.param
    with Lab(hosts=2, pnics=pnics, with_libvirt=False, zones={"h1": "a", "h2": "a"}) as lab:
        yield Pair(lab, pool)


ONE, TEAM = (1, "10.200.0.0/24"), (2, "fd00:200::/64")
anyway = pytest.mark.parametrize("pair", [ONE, TEAM], indirect=True, ids=["ipv4", "ipv6-team"])


@anyway
def test_a_limit_holds_whichever_way_and_goes_without_trace(pair: Pair) -> None:
    free, _ = pair.stream("one", "two", "10.10.0.2").end()
    assert free > 0.9 * OFFERED
    for port, limit in (("blue/one", "egress"), ("blue/two", "ingress")):
        pair.set("port", "set", port, f"--{limit}-kbps", "2000")
        received, seconds = pair.stream("one", "two", "10.10.0.2").end()
        allowed = (2000 * (seconds + 1) + BURST_KBIT) * 1000 / 8 / SIZE  # what HTB has queued comes a little later
        assert allowed / 3 < received < allowed, f"{limit}: {received} datagrams in {seconds} s"
        assert received < free / 1.5
        if limit == "ingress":
            limited, other = pair.together(("one", "two", "10.10.0.2"), ("one", "three", "10.10.0.3"))
            limited.end()
            received, _ = other.end()
            assert received > 0.9 * OFFERED, "what is queued for one port must not cost another its frames"
        pair.set("port", "set", port, f"--{limit}-kbps", "0")
        received, _ = pair.stream("one", "two", "10.10.0.2").end()
        assert received > 0.9 * OFFERED
    for host in ("h1", "h2"):
        assert "opaque-owner" not in pair.lab.exec(host, ["ovs-vsctl", "list", "qos"]).stdout


@pytest.mark.parametrize("pair", [ONE], indirect=True, ids=["ipv4"])
def test_what_a_limit_drops_is_listed_at_its_port_and_at_no_other(pair: Pair) -> None:
    for port, limit in (("blue/one", "egress"), ("blue/two", "ingress")):
        pair.set("port", "set", port, f"--{limit}-kbps", "1000")
    limited, other = pair.together(("one", "two", "10.10.0.2"), ("two", "one", "10.10.0.1"))
    limited.end()
    other.end()
    assert pair.limited("h1") == {("ep-one", "blue", "rate limit, out of the guest")}
    pair.set("port", "set", "blue/one", "--egress-kbps", "0")
    assert pair.limited("h1") == set(), "the meter has gone, and its count with it"
    limited, other = pair.together(("one", "two", "10.10.0.2"), ("one", "three", "10.10.0.3"))
    limited.end()
    other.end()
    assert pair.limited("h2") == {("ep-two", "blue", "rate limit, into the guest")}
    pair.set("port", "set", "blue/two", "--ingress-kbps", "0")
    assert pair.limited("h2") == set()


@anyway
def test_tenants_and_control_go_before_management_which_keeps_its_share(pair: Pair) -> None:
    pair.set("switch", "set", "sw-a", "--traffic-classes", "60/20/20@10")
    here = ("h1", "h2", pair.vtep)
    for lost in ("pnic0", "pnic1") if pair.lab.spec.pnics == 2 else ("",):  # by either of a team
        with pair.without(lost) if lost else nullcontext():
            tenant, management = pair.together(("one", "two", "10.10.0.2"), here)
            of_tenant, of_management = tenant.share(), management.share()
        assert of_tenant > 2 * of_management, (lost, of_tenant, of_management)
        assert of_management > OFFERED * 0.1, (lost, of_tenant, of_management)
    # what tenants leave is control's first, by whatever port it goes
    pair.serve_view("h1", VIEW_PORT)
    management, control = pair.together(here, control=here)
    of_management, (of_control, _) = management.share(), control.end()
    assert of_control / SIZE > 1.5 * of_management, (of_control, of_management)
    assert of_management > OFFERED * 0.1, (of_control, of_management)
    # what somebody takes away comes back; what is no longer wanted goes
    pnic = pair.lab.exec("h1", ["sh", "-c", "ls /sys/class/net | grep ^pnic | head -1"]).stdout.strip()
    shown = ["tc", "filter", "show", "dev", pnic, "parent", "1:"]
    before = pair.lab.exec("h1", shown).stdout
    assert before.count("flowid") > 20
    pair.lab.exec("h1", ["tc", "filter", "del", "dev", pnic, "parent", "1:"])
    assert within(5, lambda: pair.lab.exec("h1", shown, check=False).stdout == before), before
    pair.set("switch", "set", "sw-a", "--traffic-classes", "0/0/0")
    assert "flowid" not in pair.lab.exec("h1", shown, check=False).stdout
    assert "opaque-owner" not in pair.lab.exec("h1", ["ovs-vsctl", "list", "qos"]).stdout
