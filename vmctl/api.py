"""REST under /api/v1, with OpenAPI at /api/v1/openapi.json, over a unix socket that only root opens.

Each path calls one verb of `Service`. Refusals and failures answer `{"error": sentence, "refusals": [...]}` with the
status that says whose fault it is.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from vmctl import present
from vmctl.api_moves import add_moves
from vmctl.api_placement import add_placement
from vmctl.model import Host, VmctlError
from vmctl.schemas import (
    ErrorOut,
    HostIn,
    HostOut,
    NetworkOut,
    RefusalsOut,
    StartIn,
    StatusOut,
    StopIn,
    VmIn,
    VmOut,
    VmsOut,
)
from vmctl.service import Service
from vmctl.switches.routes import add_switches

__all__ = ["build_app"]


def build_app(service: Service) -> FastAPI:
    """The application on top of *service*, which the caller starts and closes."""
    app = FastAPI(
        title="vmctl",
        version=_version(),
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses={status: {"model": ErrorOut} for status in (400, 403, 404, 409, 502, 503)},
    )
    app.add_exception_handler(VmctlError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    router = APIRouter(prefix="/api/v1")
    _hosts(router, service)
    _vms(router, service)
    _moves(router, service)
    add_moves(router, service)
    add_placement(router, service)
    add_switches(router, service.switches)

    @router.get("/status", operation_id="status")
    async def status() -> StatusOut:
        return StatusOut(
            version=_version(),
            networks_from=service.views.source,
            hosts=len(service.inventory.hosts()),
            unread=service.inventory.unread(),
        )

    app.include_router(router)
    return app


def _hosts(router: APIRouter, service: Service) -> None:
    @router.get("/hosts", operation_id="list_hosts")
    async def list_hosts() -> list[HostOut]:
        return [present.host(service, host) for host in service.inventory.hosts()]

    @router.post("/hosts", operation_id="add_host", status_code=201)
    async def add_host(body: HostIn) -> Host:
        return await service.add_host(body.value())

    @router.get("/hosts/{name}", operation_id="show_host")
    async def show_host(name: str) -> HostOut:
        return present.host(service, service.inventory.host(name))

    @router.delete("/hosts/{name}", operation_id="remove_host", status_code=204)
    async def remove_host(name: str) -> None:
        await service.remove_host(name)

    @router.get("/networks", operation_id="list_networks")
    async def list_networks() -> list[NetworkOut]:
        return present.networks(service.views.fleet())


def _vms(router: APIRouter, service: Service) -> None:
    @router.get("/vms", operation_id="list_vms")
    async def list_vms() -> VmsOut:
        return VmsOut(vms=await service.vms(), unread=service.inventory.unread())

    @router.post("/vms", operation_id="define_vm", status_code=201)
    async def define_vm(body: VmIn) -> VmOut:
        return await present.vm(service, await service.define(body.value(), body.host, needs=body.needs()))

    @router.get("/vms/{vm}", operation_id="show_vm")
    async def show_vm(vm: str) -> VmOut:
        return await present.vm(service, await service.find(vm))

    @router.delete("/vms/{vm}", operation_id="undefine_vm", status_code=204)
    async def undefine_vm(vm: str) -> None:
        await service.undefine_vm(vm)

    @router.post("/vms/{vm}/start", operation_id="start_vm")
    async def start_vm(vm: str, body: StartIn) -> VmOut:
        return await present.vm(service, await service.start_vm(vm, body.host))

    @router.post("/vms/{vm}/stop", operation_id="stop_vm")
    async def stop_vm(vm: str, body: StopIn) -> VmOut:
        return await present.vm(service, await service.stop_vm(vm, force=body.force, wait_s=body.wait_s))


def _moves(router: APIRouter, service: Service) -> None:
    @router.get("/vms/{vm}/refusals", operation_id="why_not")
    async def why_not(vm: str, host: str) -> RefusalsOut:
        found = await service.find(vm)
        return present.refusals(found, host, await service.refusals_of(found, host))


async def _answer_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, VmctlError)
    body = ErrorOut(error=error.sentence, refusals=error.refusals)
    return JSONResponse(jsonable_encoder(body), status_code=error.status)


async def _answer_invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    each = (f"{'.'.join(str(x) for x in e['loc'] if x != 'body') or 'body'}: {e['msg']}" for e in error.errors())
    return JSONResponse({"error": "; ".join(each), "refusals": []}, status_code=400)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    sentence = f"{request.method} {request.url.path}: {error.detail}; see /api/v1/openapi.json"
    return JSONResponse({"error": sentence, "refusals": []}, status_code=error.status_code)


def _version() -> str:
    try:
        return version("opaque-networks")
    except PackageNotFoundError:
        return "unknown"
