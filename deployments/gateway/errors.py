"""Errors of the gateway, as OpenAI's API has them: an HTTP status, and an object with a message, a type, a code and a parameter."""

from collections.abc import Collection
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

from consensus_flows.deployments.terminal import TOO_LARGE, refused_by_server, server_failure
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Record

_TYPES = {401: "authentication_error", 402: "insufficient_quota", 403: "permission_error"}
RUN = "x-consensus-run"
"""The header that names the run."""


class GatewayError(Exception):
    """The error that a client gets in place of an answer.

    Attributes:
        status: HTTP status.
        message: What went wrong, and what would be right.
        code: What went wrong, for programs.
        param: The parameter of the request that is wrong, if one is.
        retry: Whether the same request may succeed later.
        run_id: The run, if there was one.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry: bool = False,
        run_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.param, self.retry, self.run_id = param, retry, run_id

    def body(self) -> dict[str, Any]:
        """Return the error object."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self, body: dict[str, Any] | None = None) -> JSONResponse:
        """Return the response, with another body where one is given; OpenAI's SDK is told whether to try again."""
        headers = {"x-should-retry": str(self.retry).lower()} | ({RUN: self.run_id} if self.run_id else {})
        return JSONResponse(self.body() if body is None else body, self.status, headers)


def as_gateway_error(error: Exception) -> GatewayError:
    """Convert any exception to the error that the client gets."""
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, ConfigurationError):
        return GatewayError(500, f"the saved configuration cannot be used: {error}", "configuration_error")
    if TOO_LARGE in str(error):
        return GatewayError(
            413,
            "messages: the conversation is larger than the 512 kB that Prefect takes for a run: send less, or raise "
            "PREFECT_SERVER_API_MAX_PARAMETER_SIZE (bytes) for its server",
            "request_too_large",
            param="messages",
        )
    if refusal := refused_by_server(error):
        return GatewayError(500, refusal, "prefect_refused")
    if failure := server_failure(error):
        return GatewayError(503, f"the Prefect server failed: {failure}", "prefect_unavailable", retry=True)
    return GatewayError(500, f"unexpected error: {type(error).__name__}", "internal_error")


def invalid(error: ValidationError, params: dict[str, str]) -> GatewayError:
    """Convert a failed validation of settings to the error that the client gets.

    Args:
        error: What pydantic says.
        params: For the path of a setting the parameter of the request that sets it.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    path = ".".join(map(str, first["loc"]))
    message, param = first["msg"].removeprefix("Value error, "), params.get(path)
    if param is None:
        return GatewayError(400, f"{path}: {message}" if path else message, "invalid_value")
    return GatewayError(400, f"{param}: {message}", "invalid_value", param=param)


def no_answer(record: Record) -> GatewayError:
    """Return the error for a run without an answer: which members failed, and why."""
    kinds = {call.error.kind for call in record.calls_made() if call.error}
    again = any(call.error.retryable for call in record.calls_made() if call.error)
    status, code, param = _meaning(kinds)
    return GatewayError(
        status, record.error or "no member gave an answer", code, param=param, retry=again, run_id=record.flow_run_id
    )


def _meaning(kinds: Collection[str]) -> tuple[int, str, str | None]:
    """Return status, code and parameter of a run in which calls failed for these reasons."""
    if "budget" in kinds:
        return 402, "budget", None
    if kinds == {"context_length"}:
        return 400, "context_length_exceeded", "messages"
    if kinds == {"truncated"}:
        return 400, "max_tokens_too_small", "max_completion_tokens"
    return 502, "no_answer", None
