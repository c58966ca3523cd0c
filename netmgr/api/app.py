"""The ASGI application: routes by resource, errors as `{"error": sentence}`, OpenAPI at /openapi.json.

Routes are plain functions where they only touch the store: FastAPI runs those in threads, so a commit that waits for
the disk stops nobody else. Those that wait for hosts are coroutines.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from netmgr.api import routes_enrolment, routes_groups, routes_macs, routes_ports, routes_resources, routes_trace
from netmgr.api.access import Access
from netmgr.api.context import Context
from netmgr.api.direct import direct_route
from netmgr.api.ports import Authority, FleetReader, HostQuestions
from netmgr.model import NetmgrError
from netmgr.service.specs import sentence_of
from netmgr.store import Store

__all__ = ["create_app"]


_DESCRIPTION = """
Transport zones, opaque switches, opaque networks, hosts, logical ports, security groups.

Paths take a UUID or a name. Clients need a certificate of the manager's CA, and its role decides: operators do
everything, viewers read, hosts read their own settings. Without one: `GET /api/v1/ca` and `POST /api/v1/join`.

Errors are `{"error": "<sentence>"}`. A change is refused whole, or done and on disk. With `?wait=realized` the answer
comes when every reachable host has confirmed it, and has `realization`, host by host.
"""


def create_app(
    *, store: Store, fleet: FleetReader, authority: Authority, hosts: HostQuestions, sync_port: int = 7444
) -> FastAPI:
    """The API over *store*. *sync_port* is told to hosts that join."""
    app = FastAPI(
        title="netmgr",
        version="1",
        description=_DESCRIPTION,
        docs_url="/docs",
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it looks for a collector at each request
    )
    context = Context(store=store, fleet=fleet, authority=authority, hosts=hosts, sync_port=sync_port)
    resources = routes_resources.router(context)
    app.include_router(resources, prefix="/api/v1")
    app.include_router(routes_ports.router(context), prefix="/api/v1")
    app.include_router(routes_trace.router(context), prefix="/api/v1")
    app.include_router(routes_groups.router(context), prefix="/api/v1")
    app.include_router(routes_macs.router(context), prefix="/api/v1")
    app.include_router(routes_enrolment.router(context), prefix="/api/v1")
    direct = {("POST", "/api/v1/networks"): direct_route(resources, "/networks", method="POST")}
    app.add_middleware(Access, direct=direct)
    app.add_exception_handler(NetmgrError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    return app


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, NetmgrError)
    return JSONResponse({"error": error.sentence}, status_code=error.status)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [{**e, "loc": e["loc"][1:] if e["loc"][:1] == ("body",) else e["loc"]} for e in error.errors()]
    sentence = sentence_of(errors, known=_fields_of(request), where="")
    return JSONResponse({"error": sentence.replace("body: ", "")}, status_code=400)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    sentence = str(error.detail)
    if error.status_code == 404:
        sentence = f"there is no {request.url.path}; /docs lists what there is"
    elif error.status_code == 405:
        sentence = f"{request.url.path} takes no {request.method}; /docs lists what it takes"
        if request.url.path == "/api/v1/hosts" and request.method == "POST":
            sentence = "hosts enrol themselves: make a token (netmgr host token) and run hostagent join on the host"
    return JSONResponse({"error": sentence}, status_code=error.status_code)


def _fields_of(request: Request) -> list[str]:
    """The fields that the route's body knows, for the hint in the sentence."""
    field: Any = getattr(request.scope.get("route"), "body_field", None)
    model = getattr(getattr(field, "field_info", None), "annotation", None)
    return sorted(getattr(model, "model_fields", {}))
