"""The application: its routes, and what they answer."""

import math
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Annotated, Any

import anyio.to_thread
import httpx
from fastapi import Depends, FastAPI, Header
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from fastapi.sse import EventSourceResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from consensus_flows.blocks.panel import RunConfig
from consensus_flows.deployments.commands.settings.saved import saved_configurations
from consensus_flows.deployments.gateway.access import Access
from consensus_flows.deployments.gateway.chat import SETTINGS, ChatRequest, Completion
from consensus_flows.deployments.gateway.errors import RUN, GatewayError, as_gateway_error, no_answer
from consensus_flows.deployments.gateway.flare import FlareRequest, FlareResponse
from consensus_flows.deployments.gateway.panels import model_names, panel_of
from consensus_flows.deployments.gateway.responses import RESPONSES_SETTINGS, PanelResponse, ResponsesRequest
from consensus_flows.deployments.gateway.runs import Runs
from consensus_flows.deployments.options import overlaid
from consensus_flows.deployments.server import ServerInfo, server_is_up
from consensus_flows.tasks.calls.providers import close_clients, warm_up
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConsensusError

NO_BUFFER = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Headers that let proxies pass on a stream as it comes."""


CORS: dict[str, Any] = {"allow_methods": ["*"], "allow_headers": ["*"], "expose_headers": [RUN]}


@dataclass
class Options:
    """How the gateway behaves.

    Attributes:
        server: The Prefect server.
        token: What clients must send as their API key; None for nothing.
        hosts: Names, beside those of loopback, under which clients reach it.
        origins: Web pages that may use it.
        progress: Whether streams tell what happens as reasoning.
        title_model: Who answers as NAME:title; by default the first model of the configuration.
        attest: Whether every answer is attested.
    """

    server: ServerInfo
    token: str | None = field(default=None, repr=False)
    hosts: Collection[str] = ()
    origins: Collection[str] = ()
    progress: bool = True
    title_model: str | None = None
    attest: bool = False


def make_app(options: Options) -> FastAPI:
    """Make the application."""
    runs, began = Runs(), int(time.time())
    attested = {"attestation": {"attest": True}} if options.attest else {}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        warm_up([model.partition("/")[0] for one in await saved_configurations() for model in _models(one.values)])
        yield
        await runs.finish(app.state.stop_at)
        await close_clients()

    # FastAPI's page of documentation loads its scripts from elsewhere, and is blank where there is no network.
    app = FastAPIOffline(
        redoc_url=None,
        title="consensus",
        version=version("consensus-flows"),
        summary="Saved panels of language models, as models of an OpenAI-compatible API.",
        lifespan=lifespan,
        dependencies=[Depends(HTTPBearer(auto_error=False))] if options.token else [],
        middleware=[
            *([Middleware(CORSMiddleware, **CORS, allow_origins=[*options.origins])] if options.origins else []),
            Middleware(Access, hosts=options.hosts, origins=options.origins, token=options.token),
        ],
    )
    app.state.runs, app.state.stop_at = runs, math.inf

    @app.get("/health")
    async def health() -> JSONResponse:
        """Tell whether runs can begin."""
        up = await anyio.to_thread.run_sync(server_is_up, options.server.api_url)
        status = "ok" if up else "the Prefect server does not answer"
        return JSONResponse({"status": status, "runs": runs.under_way}, 200 if up else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the saved configurations, each with its companion for titles."""
        names = model_names(await saved_configurations())
        return {"object": "list", "data": [_model(name, began) for name in names]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """Show one of them."""
        await panel_of(name, {}, {})
        return _model(name, began)

    @app.post("/v1/chat/completions")
    async def chat_completions(
        asked: ChatRequest, x_stainless_retry_count: Annotated[int, Header(include_in_schema=False)] = 0
    ) -> Response:
        """Ask a panel; the answer comes whole, or as a stream of chunks."""
        messages = await anyio.to_thread.run_sync(asked.conversation)  # it may keep files
        settings = overlaid(RunConfig, asked.settings(), attested)
        panel = await panel_of(asked.model, settings, SETTINGS, options.title_model)
        run = runs.ask(panel, messages, pieces=asked.reads_pieces, retried=x_stainless_retry_count > 0)
        run_id = await run.started()
        completion = Completion(asked, run, run_id, options.server.ui_url)
        if not asked.stream:
            return JSONResponse(await completion.whole(), headers={RUN: run_id})
        progress = options.progress and asked.include_reasoning is not False
        return EventSourceResponse(completion.stream(progress=progress), headers={RUN: run_id, **NO_BUFFER})

    @app.post("/v1/responses")
    async def responses(
        asked: ResponsesRequest, x_stainless_retry_count: Annotated[int, Header(include_in_schema=False)] = 0
    ) -> Response:
        """Ask a panel; the response comes whole, or as a stream of events."""
        before = await asked.before()
        messages = await anyio.to_thread.run_sync(asked.messages, before)
        panel = await panel_of(asked.model, asked.settings(), RESPONSES_SETTINGS, options.title_model)
        run = runs.ask(panel, messages, pieces=asked.stream, retried=x_stainless_retry_count > 0, after=before)
        run_id = await run.started()
        response = PanelResponse(asked, run, run_id, options.server.ui_url)
        if not asked.stream:
            return JSONResponse(await response.whole(), headers={RUN: run_id})
        return EventSourceResponse(response.stream(), headers={RUN: run_id, **NO_BUFFER})

    async def flare(asked: FlareRequest) -> FlareResponse:
        """Ask a panel, as the chat service of Flare's consensus learning is asked."""
        messages = [Message(role="system", content=asked.system_message)] if asked.system_message.strip() else []
        panel = await panel_of(asked.model, attested, {})
        record = await runs.ask(panel, [*messages, Message(role="user", content=asked.user_message)]).record()
        if record.answer is None:
            raise no_answer(record)
        return FlareResponse(response=record.answer)

    app.post("/api/routes/chat/")(flare)
    app.post("/api/routes/chat", include_in_schema=False)(flare)

    async def failed(request: Request, error: Exception) -> JSONResponse:
        made = as_gateway_error(error)
        return made.response({"detail": made.message} if _is_flares(request) else None)

    async def unreadable(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        if _is_flares(request):
            return await request_validation_exception_handler(request, error)
        return _unreadable(error).response()

    async def unknown(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        made = GatewayError(error.status_code, f"{request.method} {request.url.path}: {error.detail}", "not_found")
        return await failed(request, made)

    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(HTTPException, unknown)
    for kind in (GatewayError, ConsensusError, httpx.HTTPError, RuntimeError, Exception):
        app.add_exception_handler(kind, failed)
    return app


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "consensus-flows"}


def _models(values: dict[str, Any]) -> list[str]:
    return [str(name) for name in values.get("members", ())]


def _is_flares(request: Request) -> bool:
    return request.url.path.startswith("/api/routes/")


def _unreadable(error: RequestValidationError) -> GatewayError:
    """Convert a failed validation of a request body to the error that the client gets."""
    first = error.errors()[0]
    path = first["loc"][1:]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    if path == ("messages",) and isinstance(error.body, dict) and "input" in error.body:
        return GatewayError(
            400,
            "messages: this is a request of the Responses API: send it to /v1/responses",
            "invalid_value",
            param="messages",
        )
    message = first["msg"].removeprefix("Value error, ")
    return GatewayError(400, f"{param}: {message}" if param else message, "invalid_value", param=param or None)
