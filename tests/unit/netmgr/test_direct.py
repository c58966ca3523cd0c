"""A direct route answers as FastAPI does, or leaves the request to it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from netmgr.api.direct import direct_route
from netmgr.model import NetmgrError
from tests.support.netmgr_api import Api

DIRECT, BY_FASTAPI = "/api/v1/networks?wait=realized", "/api/v1/networks?wait=realized&timeout_s=10"
JSON = [(b"host", b"x"), (b"content-type", b"application/json")]


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str


def asked(query: bytes = b"", headers: list[tuple[bytes, bytes]] = JSON, body: bytes = b'{"name": "n"}') -> Any:
    """What the direct route answers, and what its function was called with."""
    calls: list[Any] = []
    routes = APIRouter()

    @routes.get("/things")
    async def things() -> dict[str, Any]:
        return {}

    @routes.post("/things", status_code=201)
    async def make(spec: Spec, wait: str | None = None) -> dict[str, Any]:
        calls.append((spec.name, wait))
        if spec.name == "bad":
            raise NetmgrError("thing bad: is bad", status=409)
        return {"name": spec.name, "ü": [1, None]}

    route = direct_route(routes, "/things", method="POST")
    answer = asyncio.run(route.answer({"query_string": query, "headers": headers}, body))
    return answer and (answer.status_code, json.loads(answer.body)), calls


def test_what_is_plainly_right_is_answered() -> None:
    assert asked() == ((201, {"name": "n", "ü": [1, None]}), [("n", None)])
    assert asked(b"wait=realized")[1] == [("n", "realized")]
    assert asked(body=b'{"name": "bad"}') == ((409, {"error": "thing bad: is bad"}), [("bad", None)])


@pytest.mark.parametrize(
    "odd",
    [
        {"query": b"wait=never"},
        {"query": b"wait=realized&timeout_s=1"},
        {"headers": [(b"content-type", b"text/plain")]},
        {"headers": []},
        {"body": b""},
        {"body": b"\xff"},
        {"body": b"[]"},
        {"body": b'{"name": 1}'},
        {"body": b'{"name": "n", "nmae": "m"}'},
    ],
)
def test_everything_else_is_left_alone(odd: dict[str, Any]) -> None:
    assert asked(**odd) == (None, [])


def test_both_ways_to_a_network_give_the_same_answers(api: Api) -> None:
    api.operator.post("/api/v1/zones", json={"name": "a"})
    body = {"name": "s", "zones": ["a"], "vtep_pool": "10.200.0.0/24", "pnic_globs": ["pnic*"]}
    api.operator.post("/api/v1/switches", json=body)
    api.enrol("h1", "a")
    found = []
    for path, name in ((DIRECT, "blue"), (BY_FASTAPI, "teal")):
        made = api.operator.post(path, json={"name": name, "zone": "a", "subnets": ["10.1.0.0/24"]})
        again = api.operator.post(path, json={"name": name, "zone": "a"})
        unknown = api.operator.post(path, json={"name": "n", "zone": "b"})
        network = made.json()
        assert network["realization"]["hosts"][0]["state"] == "disconnected"
        text = made.text
        for own in (network["uuid"], name, str(network["segment_id"])):
            text = text.replace(own, "…")
        answers = [(one.status_code, {**one.headers, "date": ""}) for one in (made, again, unknown)]
        found.append((text, answers, again.text.replace(name, "…").replace(network["uuid"], "…"), unknown.text))
    assert found[0] == found[1]
    assert [status for status, _headers in found[0][1]] == [201, 409, 404]
