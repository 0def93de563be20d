"""The provider's half behind HTTP: z in, logits out, whatever else comes is refused in a line; no picture is ever asked for."""

import asyncio
import collections
import contextlib
import dataclasses
import hmac
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import prometheus_client as prometheus
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ani_jax.deploy import wire
from ani_jax.deploy.batches import Batches, Busy, Server
from ani_jax.deploy.describe import describe

HEALTH, METRICS, DESCRIPTION = "/healthz", "/metrics", "/openapi.json"
ADDRESSES = 4096
"""Senders whose rate is remembered; of more, who was silent longest is forgotten."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A provider's network and what may be sent to it."""

    spec: wire.Spec
    server: Server


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one sender may take.

    Attributes:
        wait: seconds that the first request of a batch waits for others.
        timeout: seconds until a body has to be there, and again until an answer has to be.
        rate: requests a second from one address, in the mean over a second; 0 for any number.
        waiting: rows that may wait for a batch.
    """

    wait: float = 0.005
    timeout: float = 10.0
    rate: float = 1000.0
    waiting: int = 1024

    def __post_init__(self):
        for name, least in {"wait": 0, "timeout": 1e-3, "rate": 0, "waiting": 1}.items():
            value = getattr(self, name)
            if not least <= value < float("inf"):
                raise ValueError(f"{name}={value}: must be at least {least} and finite")


class Meters:
    """What ``/metrics`` shows, in a registry of its own, so that two services in a process do not mix."""

    def __init__(self):
        self.registry = prometheus.CollectorRegistry()
        shared = {"namespace": "ani_jax", "registry": self.registry}
        self.requests = prometheus.Counter("requests", "Requests by the status of their answer.", ["status"], **shared)
        self.seconds = prometheus.Histogram("answer_seconds", "From a request's head to its answer's.", **shared)
        sizes = [2**n for n in range(11)]
        self.rows = prometheus.Histogram("batch_rows", "Rows of each batch, filling aside.", buckets=sizes, **shared)
        self.waiting = prometheus.Gauge("waiting_rows", "Rows that wait for a batch.", **shared)


class Rate:
    """So many requests a second from each address: a bucket of a second's worth that fills up again.

    Example:
        >>> rate = Rate(2.0)
        >>> [rate.wait("a", now) for now in (0.0, 0.0, 0.0, 0.5)]
        [0.0, 0.0, 0.5, 0.0]
    """

    def __init__(self, rate: float):
        self.rate, self.buckets = rate, collections.OrderedDict[str, tuple[float, float]]()

    def wait(self, address: str, now: float) -> float:
        """Seconds until that address may ask again, 0 where it may now and hereby does."""
        if not self.rate:
            return 0.0
        most = max(self.rate, 1.0)
        left, since = self.buckets.pop(address, (most, now))
        left = min(most, left + (now - since) * self.rate)
        allowed = left >= 1
        self.buckets[address] = (left - allowed, now)
        if len(self.buckets) > ADDRESSES:
            self.buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self.rate


def refusal(status: int, reason: str, **headers: str) -> JSONResponse:
    """An answer that says why there is none."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"error": reason}, status, named)


class Door:
    """What every request passes before it is read: it is counted, and turned away where it comes too often or has no token."""

    def __init__(self, app: ASGIApp, *, rate: Rate, token: str | None, meters: Meters):
        self.app, self.rate, self.meters = app, rate, meters
        self.expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request in, or answers it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.meters.requests.labels(str(message["status"])).inc()
                self.meters.seconds.observe(time.perf_counter() - begun)
            await send(message)

        await (self.refused(scope) or self.app)(scope, receive, counted)

    def refused(self, scope: Scope) -> Response | None:
        """Why a request is not let in."""
        # Whoever watches over the service has no token, and must not be kept out by others' haste.
        if scope["path"] == HEALTH:
            return None
        # The token's turn comes second, so that guesses are limited too.
        address = scope["client"][0] if scope.get("client") else ""
        if wait := self.rate.wait(address, time.monotonic()):
            return refusal(429, f"more than {self.rate.rate:g} requests a second", Retry_After=str(int(wait) + 1))
        given = dict(scope["headers"]).get(b"authorization", b"")
        if self.expected is not None and not hmac.compare_digest(given, self.expected):
            return refusal(401, "the bearer token is missing or wrong", WWW_Authenticate="Bearer")
        return None


class Inference:
    """What ``/v1/infer`` does: reads a message in time, checks it, waits for its share of a batch."""

    def __init__(self, models: Sequence[Model], limits: Limits, meters: Meters):
        self.limits, self.models = limits, {model.spec.artefact: model for model in models}
        self.batches = {
            name: Batches(
                model.server,
                rows=model.spec.rows,
                wait=limits.wait,
                waiting=limits.waiting,
                computed=meters.rows.observe,
            )
            for name, model in self.models.items()
        }
        self.largest = max(model.spec.largest for model in models)
        meters.waiting.set_function(lambda: sum(batches.queued for batches in self.batches.values()))

    async def body(self, request: Request) -> bytes:
        """The body, which is put down as soon as it is too long or takes too long."""
        too_long = HTTPException(413, f"the body has more than {self.largest} bytes")
        # Any other value than a number of bytes never comes this far.
        if int(request.headers.get("content-length", 0)) > self.largest:
            raise too_long
        read = bytearray()
        try:
            async with asyncio.timeout(self.limits.timeout):
                async for chunk in request.stream():
                    read += chunk
                    if len(read) > self.largest:
                        raise too_long
        except TimeoutError:
            raise HTTPException(408, f"the body was not there within {self.limits.timeout:g} s") from None
        except ClientDisconnect:
            raise HTTPException(400, "the connection closed within the body") from None
        return bytes(read)

    async def answer(self, request: Request) -> Response:
        """The answer to a message."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != wire.MEDIA:
            raise HTTPException(415, f"the content type must be {wire.MEDIA}")
        name, z = wire.decode(await self.body(request))
        if name not in self.models:
            raise HTTPException(
                409, "the artefact is not the one that is served here; export, and take both halves of it"
            )
        spec = self.models[name].spec
        spec.check(z)
        try:
            async with asyncio.timeout(self.limits.timeout):
                logits = await self.batches[name].answer(z)
        except TimeoutError:
            return refusal(504, f"no answer within {self.limits.timeout:g} s", Retry_After="1")
        except Busy as error:
            return refusal(503, str(error), Retry_After="1")
        if not np.isfinite(logits).all():
            raise wire.Refused("z: its logits are not finite; its numbers are beyond any that a client sends")
        return Response(wire.encode(name, logits), media_type=wire.MEDIA)


def application(
    models: Sequence[Model],
    limits: Limits | None = None,
    token: str | None = None,
    pages: Sequence[BaseRoute] = (),
) -> Starlette:
    """The service as an ASGI application.

    Args:
        models: what is served; a message says by name whose it is.
        limits: on what is asked.
        token: that every request must bear, those to ``/healthz`` aside; None for anybody's.
        pages: further routes.

    Returns:
        An application whose every size of batch is compiled.

    Raises:
        ValueError: a server does not answer each row with a row of logits.

    Example:
        >>> model = Model(wire.Spec("a", (2,), "float32"), np.asarray)
        >>> [route.path for route in application([model]).routes]
        ['/v1/infer', '/healthz', '/metrics', '/openapi.json']
    """
    limits, meters = limits or Limits(), Meters()
    infer = Inference(models, limits, meters)
    for model in models:
        warm(model, infer.batches[model.spec.artefact].sizes)
    description = describe([model.spec for model in models], token is not None)
    workers: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def alive(app: Starlette) -> AsyncIterator[None]:
        workers.extend(asyncio.create_task(batches.run()) for batches in infer.batches.values())
        yield
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def health(request: Request) -> Response:
        dead = not workers or any(worker.done() for worker in workers)
        return refusal(503, "the batches have stopped") if dead else JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        return Response(prometheus.generate_latest(meters.registry), media_type=prometheus.CONTENT_TYPE_LATEST)

    async def openapi(request: Request) -> Response:
        return JSONResponse(description)

    async def refused(request: Request, error: Any) -> Response:
        return refusal(400, str(error))

    async def http(request: Request, error: Any) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    async def failed(request: Request, error: Exception) -> Response:
        # Why is written into our log by uvicorn, and is no stranger's business.
        return refusal(500, "the provider's network failed")

    routes = [
        Route(wire.PATH, infer.answer, methods=["POST"]),
        Route(HEALTH, health),
        Route(METRICS, metrics),
        Route(DESCRIPTION, openapi),
        *pages,
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Door, rate=Rate(limits.rate), token=token, meters=meters)],
        exception_handlers={wire.Refused: refused, HTTPException: http, Exception: failed},
        lifespan=alive,
    )


def listening(
    app: ASGIApp,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    tls_cert: str | None = None,
    tls_key: str | None = None,
) -> tuple[uvicorn.Server, socket.socket]:
    """A server with its socket: ``server.run([socket])`` serves until SIGINT or SIGTERM, and then answers what it has begun.

    Args:
        app: the application.
        host: address to listen on.
        port: 0 for any that is free.
        tls_cert: file of the certificates that TLS shows; None for plain HTTP.
        tls_key: file of their private key; None where it is in the same file.

    Raises:
        ValueError: it cannot listen there, or TLS cannot be had from these files.
    """
    secured: dict[str, Any] = {}
    if tls_cert is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tls_cert, tls_key)
        except OSError as error:
            told = f"no certificate with its key ({error.strerror or error})"
            raise ValueError(f"tls_cert={tls_cert}: with tls_key={tls_key} is {told}") from None
        secured = {"ssl_certfile": tls_cert, "ssl_keyfile": tls_key}
    if not 0 <= port < 1 << 16:
        raise ValueError(f"port={port}: must be from 0 to {(1 << 16) - 1}")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ValueError(f"port={port}: cannot listen on {host} ({error})") from None
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        # Of more connections the last are told so at once, rather than all of them late.
        limit_concurrency=1024,
        timeout_graceful_shutdown=10,
        **secured,
    )
    return uvicorn.Server(config), listener


def warm(model: Model, sizes: Sequence[int]) -> None:
    """Calls the server with every size of batch, and refuses one that does not answer each row with a row of logits.

    Raises:
        ValueError: its answer has another shape.
    """
    spec = model.spec
    row = np.zeros((1, *spec.shape), wire.DTYPES[spec.dtype])
    for size in sizes:
        logits = np.asarray(model.server(np.repeat(row, size, axis=0)))
        if logits.ndim != 2 or len(logits) != size:
            raise ValueError(
                f"server={spec.artefact}: answers {size} rows with shape {logits.shape}; must be (rows, classes)"
            )
