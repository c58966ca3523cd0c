"""A guest behind stateful security groups, moved with plain virsh while it downloads and while it serves.

`web` starts on h1; `peer`, an endpoint on h2, serves a file slowly and fetches from the guest.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scripts.labkit import Lab, hypervisor
from scripts.labkit.domain import domain_xml
from scripts.labkit.guest import GuestImage
from tests.support.agent_words import agent_shows
from tests.support.waiting import within

pytestmark = pytest.mark.e2e

VIRSH = ["virsh", "-c", "qemu:///system"]
MAC = "52:54:00:00:02:01"
PEER = {"vif_uuid": "99999999-0000-4000-8000-000000000001", "mac": "52:54:00:00:02:99"}
APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450}]
groups:
  - name: web
    rules:
      - {direction: ingress, protocol: tcp, port_min: 80}
      - {direction: egress, protocol: tcp, port_min: 8080, remote_cidr: 10.10.0.99/32}
"""
# Serves /file, 600 kB in about 12 s, and its checksum.
SLOW_SERVER = """
import hashlib, http.server, time
BODY = bytes(range(256)) * 2400
class Slow(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = BODY if self.path == "/file" else hashlib.sha256(BODY).hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for at in range(0, len(body), 5000):
            self.wfile.write(body[at:at + 5000])
            time.sleep(0.1)
    def log_message(self, *_):
        pass
print("ready", flush=True)
http.server.ThreadingHTTPServer(("", 8080), Slow).serve_forever()
"""
# Opens a connection to the guest's web server, says nothing for argv 1 seconds, asks then; prints the answer's size.
PATIENT_CLIENT = """
import socket, sys, time
s = socket.create_connection(("10.10.0.1", 80), timeout=20)
s.sendall(b"GET /file.sha256 HTTP/1.1\\r\\n")
print("connected", flush=True)
time.sleep(float(sys.argv[1]))
s.sendall(b"Host: web\\r\\nConnection: close\\r\\n\\r\\n")
size = 0
while part := s.recv(65536):
    size += len(part)
print(size)
"""


@pytest.fixture(scope="module")
def lab(guest_image: GuestImage) -> Iterator[Lab]:
    with Lab(hosts=2, with_vmctl=False, zones={"h1": "a", "h2": "a"}) as one:
        one.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        words = ["netmgr", "port", "create", "peer", "--network", "blue", "--ip", "10.10.0.99"]
        one.exec("mgr", [*words, "--vif", PEER["vif_uuid"], "--mac", PEER["mac"]])
        bridge = agent_shows(one, "h2")["switches"][0]["bridge"]
        one.attach("h2", "peer", bridge=bridge, addresses=["10.10.0.99/24"], mtu=1450, **PEER)
        xml = domain_xml(name="web", image=guest_image, words="ip=10.10.0.1/24 host=web", network="blue", mac=MAC)
        one.exec("h1", [*VIRSH, "define", "/dev/stdin"], input=xml)
        one.exec("h1", [*VIRSH, "start", "web"], timeout_s=60)
        assert within(40, lambda: fetches(one))
        ports = json.loads(one.exec("mgr", ["netmgr", "port", "list", "-o", "json"]).stdout)
        (name,) = (port["name"] for port in ports if port["mac"] == MAC)
        one.exec("mgr", ["netmgr", "port", "set", f"blue/{name}", "--group", "web"])
        assert within(5, lambda: one.exec("peer", ["ping", "-c1", "-W1", "10.10.0.1"], check=False).returncode != 0)
        time.sleep(2)  # a guest that boots dirties its memory faster than it can be copied
        yield one


def fetches(lab: Lab) -> bool:
    """Whether the peer gets something from the guest's web server."""
    words = ["curl", "-s", "-o", "/dev/null", "--max-time", "2", "http://10.10.0.1/file.sha256"]
    return lab.exec("peer", words, check=False).returncode == 0


@contextmanager
def running(lab: Lab, where: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = lab.popen(where, ["python3", "-u", "-c", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() in ("ready\n", "connected\n")
        yield process
    finally:
        process.kill()
        process.wait()


def migrate(lab: Lab, source: str, destination: str) -> None:
    address = lab.address(destination)
    words = ["migrate", "--live", "--p2p", "web", hypervisor.remote_uri(address), "--migrateuri", f"tcp://{address}"]
    lab.exec(source, [*VIRSH, *words], timeout_s=60)


def test_a_download_and_a_silent_client_live_on_through_a_move_and_straight_back(lab: Lab) -> None:
    assert fetches(lab)
    with running(lab, "peer", SLOW_SERVER):
        assert "ok=no" in lab.guest("web", ["probe", "get", "10.10.0.99"]).stdout, "no rule for port 80"
        for source, destination in (("h1", "h2"), ("h2", "h1")):
            with running(lab, "peer", PATIENT_CLIENT, "8") as client:
                lab.guest("web", ["probe", "start", source, "get", "10.10.0.99:8080"])
                time.sleep(1)
                migrate(lab, source, destination)
                assert "bytes=614400 ok=yes" in lab.guest("web", ["probe", "result", source], timeout_s=60).stdout
                assert client.stdout is not None
                assert int(client.stdout.read()) > 64
            heard = lab.path(destination, "/var/log/hostagent.log").read_text()
            assert 'event="tickets: received"' in heard
    ping = lab.exec("peer", ["ping", "-c1", "-W1", "10.10.0.1"], check=False)
    assert ping.returncode != 0, "still no rule for it"
    assert within(75, lambda: all(_verified(lab, host) for host in lab.hosts)), "tickets go after their time"


def _verified(lab: Lab, host: str) -> bool:
    return lab.exec(host, ["hostagent", "verify"], check=False).returncode == 0
