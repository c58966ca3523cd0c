"""Who may come in (CA, join, tokens, certificates), whole documents (apply), and the state of it all (status)."""

from __future__ import annotations

from asyncio import to_thread
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from netmgr import service
from netmgr.api.context import Context, Timeout, Wait
from netmgr.contract.types import Status
from netmgr.service import views
from netmgr.service.join import TTL_S_DEFAULT
from netmgr.service.specs import NameList, UuidText

__all__ = ["router"]

MANAGER_NAME = "netmgr"  # the name that its certificates carry

View = dict[str, Any]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class JoinRequest(_Body):
    """A host's request to be enrolled."""

    token: str = Field(max_length=512)
    csr_pem: str = Field(max_length=16384, description="Signing request for the host's key, PEM.")
    host_uuid: UuidText
    name: str = Field(default="", description="Used unless the token fixes one.")
    pnics: NameList = Field(default_factory=list, description="PNICs that opaque switches may use.")
    view_address: str = Field(default="", max_length=256, description="host:port of the host's OpaqueView.")


class TokenRequest(_Body):
    """A join token to be made."""

    name: str = Field(default="", description="Name the host shall have; empty: its own choice.")
    zones: NameList = Field(default_factory=list)
    ttl_s: int = TTL_S_DEFAULT


class CertificateRequest(_Body):
    """A client certificate to be made; a host gets its own by joining."""

    name: str
    role: Literal["operator", "viewer"]
    csr_pem: str = Field(max_length=16384)


def router(context: Context) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter()
    _add_enrolment(routes, context)
    _add_apply(routes, context)
    _add_status(routes, context)
    return routes


def _add_enrolment(routes: APIRouter, context: Context) -> None:
    @routes.get("/ca", tags=["enrolment"])
    def show_ca() -> Response:
        """The CA's certificate, PEM. A joining host checks it against the token's fingerprint."""
        return Response(context.authority.ca_pem(), media_type="application/x-pem-file")

    @routes.post("/join", tags=["enrolment"])
    def join(request: JoinRequest) -> View:
        """Spend a token, enrol the host, get its certificate. The same host may repeat it with the same key."""
        joined = service.join(
            context.store,
            authority=context.authority,
            token=request.token,
            csr_pem=request.csr_pem,
            host_uuid=UUID(request.host_uuid),
            name=request.name,
            pnics=request.pnics,
            view_address=request.view_address,
        )
        return {
            "cert_pem": joined.cert_pem,
            "ca_pem": context.authority.ca_pem(),
            "host_uuid": str(joined.host.uuid),
            "host_name": joined.host.name,
            "sync_port": context.sync_port,
            "manager_name": MANAGER_NAME,
        }

    @routes.post("/tokens", status_code=201, tags=["enrolment"])
    def create_token(request: TokenRequest) -> View:
        """A one-use join token. Its text is in this answer and nowhere else."""
        token, text = service.create_token(
            context.store,
            authority=context.authority,
            host_name=request.name,
            zones=request.zones,
            ttl_s=request.ttl_s,
        )
        return {"token": text, "uuid": str(token.uuid), "expires_at": token.expires_at}

    @routes.post("/certs", status_code=201, tags=["enrolment"])
    def create_certificate(request: CertificateRequest) -> View:
        """A client certificate for the key of a signing request."""
        cert_pem = context.authority.sign(csr_pem=request.csr_pem, role=request.role, name=request.name)
        return {"cert_pem": cert_pem, "ca_pem": context.authority.ca_pem()}


def _add_apply(routes: APIRouter, context: Context) -> None:
    body = {"requestBody": {"required": True, "content": {"application/yaml": {"schema": {"type": "string"}}}}}

    @routes.post("/apply", tags=["apply"], openapi_extra=body)
    async def apply(
        request: Request,
        dry_run: Annotated[bool, Query(description="Say what would be done, and do nothing.")] = False,
        prune: Annotated[bool, Query(description="Delete what the document does not name.")] = False,
        wait: Wait = None,
        timeout_s: Timeout = 10,
    ) -> View:
        """Make the store say what the document (YAML or JSON) says: in one transaction, all or nothing."""
        raw = await request.body()
        document = await to_thread(service.load_document, raw)
        applied = await to_thread(
            service.apply, context.store, document, acked=context.acked(), prune=prune, dry_run=dry_run
        )
        view = {
            "revision": applied.revision,
            "changed": bool(applied.actions) and not dry_run,
            "dry_run": dry_run,
            "actions": [
                {"verb": a.verb, "kind": a.kind, "name": a.name, "fields": dict(a.fields)} for a in applied.actions
            ],
        }
        if wait and not dry_run:
            return await context.waited(view, keys=applied.keys, changes=applied.changes, timeout_s=timeout_s)
        return view


def _add_status(routes: APIRouter, context: Context) -> None:
    @routes.get("/status", tags=["status"])
    def show_status() -> View:
        """The manager at a glance, and everything that is not up."""
        lives = context.fleet.lives()
        with context.store.read() as world:
            hosts = [views.host_view(world, host, lives) for host in world.hosts.values()]
            switches = [views.switch_view(world, switch, lives) for switch in world.switches.values()]
            networks = [views.network_view(world, network, lives) for network in world.networks.values()]
            counts = {"zones": len(world.zones), "ports": len(world.ports)}
            revision = world.revision
        shown = {"host": hosts, "switch": switches, "network": networks}
        return {
            "store_id": context.store.store_id,
            "revision": revision,
            "zones": counts["zones"],
            "switches": len(switches),
            "networks": len(networks),
            "ports": counts["ports"],
            "hosts": len(hosts),
            "hosts_connected": sum(host["connected"] for host in hosts),
            "troubles": [
                {"kind": kind, "name": v["name"], "status": v["status"], "health": v["health"], "reasons": v["reasons"]}
                for kind, found in shown.items()
                for v in sorted(found, key=lambda view: str(view["name"]))
                if v["status"] != Status.UP
            ],
        }
