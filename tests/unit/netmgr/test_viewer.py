"""What a viewer's certificate may do, asked for every path that the API has, and of the code that carries one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import httpx

from netmgr.api.ports import Role
from netmgr.contract.proto import opaque_view_pb2, sync_pb2
from tests.support.netmgr_api import Api

VMCTL = Path(__file__).parents[3] / "vmctl"
WITHOUT_CERTIFICATE = {"/api/v1/join"}  # a token speaks there, not a certificate


def test_viewer_is_refused_every_method_that_writes_on_every_path(api: Api) -> None:
    paths = api.operator.get("/openapi.json").json()["paths"]
    asked = 0
    with api.client(api.identity("vmctl", Role.VIEWER)) as viewer:
        for path, methods in paths.items():
            for method in {"post", "put", "patch", "delete"} & set(methods):
                if path in WITHOUT_CERTIFICATE:
                    continue
                answer: httpx.Response = viewer.request(method, re.sub(r"\{.*?\}", "blue", path), json={})
                assert answer.status_code == 403, f"{method} {path}: {answer.status_code} {answer.text}"
                assert "vmctl has role viewer" in answer.json()["error"]
                asked += 1
    assert asked > 20  # zones, switches, networks, hosts, ports and what goes with them


def test_compute_manager_speaks_no_service_that_writes() -> None:
    """It imports OpaqueView's stubs alone, and that service lists and watches."""
    services = {
        name.rpartition(".")[2]
        for path in VMCTL.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("netmgr.contract.proto")
        for name in (f"{node.module}.{alias.name}" for alias in node.names)
    }
    assert services == {"opaque_view_pb2", "opaque_view_pb2_grpc"}
    (view,) = opaque_view_pb2.DESCRIPTOR.services_by_name.values()
    assert {method.name for method in view.methods} == {"List", "Watch"}
    assert not any(method.client_streaming for method in view.methods)
    assert {*view.methods_by_name}.isdisjoint(
        *(s.methods_by_name for s in sync_pb2.DESCRIPTOR.services_by_name.values())
    )
