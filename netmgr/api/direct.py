"""Routes that somebody waits for with a clock, taken past the layers that FastAPI has for all others.

From a request's last byte to its function and back FastAPI takes as much of the processor as the whole change that it
asks for. A direct route is the same function, of the same router, for a request that is plainly right: a JSON body that
fits its model, a query known by the letter. All else, errors first, goes FastAPI's way, and is answered and worded
there. Who may ask was decided before.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from netmgr.model import NetmgrError

__all__ = ["DirectRoute", "direct_route"]

_QUERIES: Mapping[bytes, Mapping[str, str]] = {b"": {}, b"wait=realized": {"wait": "realized"}}


class DirectRoute:
    """One route; see the module."""

    def __init__(
        self, model: type[BaseModel], endpoint: Callable[..., Awaitable[Any]], *, argument: str, status_code: int
    ) -> None:
        self._model = model
        self._endpoint = endpoint
        self._argument = argument
        self._status_code = status_code

    async def answer(self, scope: MutableMapping[str, Any], body: bytes) -> Response | None:
        """The answer to a request; None, with nothing done, where FastAPI is to look at it."""
        query = _QUERIES.get(scope["query_string"])
        if query is None or (b"content-type", b"application/json") not in scope["headers"]:
            return None
        try:
            spec = self._model.model_validate(json.loads(body))
        except (ValidationError, ValueError):
            return None
        try:
            view = await self._endpoint(**{self._argument: spec}, **query)
        except NetmgrError as error:
            return JSONResponse({"error": error.sentence}, status_code=error.status)
        return JSONResponse(view, status_code=self._status_code)


def direct_route(router: APIRouter, path: str, *, method: str) -> DirectRoute:
    """The direct form of a route of *router* that is a coroutine of a body and *wait*, and returns plain values."""
    routes = (one for one in router.routes if isinstance(one, APIRoute) and one.path == path)
    route = next(one for one in routes if one.methods and method in one.methods)
    assert route.body_field is not None
    return DirectRoute(
        route.body_field.field_info.annotation,  # type: ignore[arg-type]
        route.endpoint,
        argument=route.body_field.name,
        status_code=route.status_code or 200,
    )
