"""Whether the gateway lives, is ready, and what it counts."""

from __future__ import annotations

import os
from typing import Final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.responses import Response

from gateway.api.operations import NO_QUERY, AnyOperation, Exchange, Operation, Plain, Reply
from gateway.api.problems import RETRY_AFTER_SECONDS
from gateway.api.wire import resources
from gateway.api.wire.requests import Nothing


async def healthz(_: Exchange[Nothing, Nothing]) -> Reply:
    """Tell that the process runs."""
    return Reply(resources.Alive("ok"))


async def readyz(exchange: Exchange[Nothing, Nothing]) -> Response:
    """Tell whether requests are taken: 503 while starting or draining, but not while an engine is away."""
    health = exchange.api.service.health()
    content = resources.Readiness(health.status, health.engine, health.database, list(health.warnings))
    return Response(
        msgspec.json.encode(content),
        status_code=200 if health.ready else 503,
        media_type="application/json",
        headers=None if health.ready else {"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


async def metrics(_: Exchange[Nothing, Nothing]) -> Response:
    """Tell what was counted, in Prometheus' text format; by all worker processes if there are several."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # untyped in prometheus_client
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


OPERATIONS: Final[tuple[AnyOperation, ...]] = (
    Operation(
        method="GET",
        path="/healthz",
        handler=healthz,
        access="open",
        tag="Health",
        summary="Whether the process runs",
        query=NO_QUERY,
        answers={200: resources.Alive},
    ),
    Operation(
        method="GET",
        path="/readyz",
        handler=readyz,
        access="open",
        tag="Health",
        summary="Whether requests are taken",
        description="503 while starting or draining. With the engine or the database away later it stays "
        "200, so that no balancer cuts all devices off. So it does while many records wait for the database, "
        "which `warnings` tells of then.",
        query=NO_QUERY,
        answers={200: resources.Readiness, 503: resources.Readiness},
    ),
    Operation(
        method="GET",
        path="/metrics",
        handler=metrics,
        access="open",
        tag="Health",
        summary="What the gateway counted and timed",
        query=NO_QUERY,
        answers={200: Plain("text/plain", "Prometheus' text format.")},
    ),
)
