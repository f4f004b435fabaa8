"""The task of a legacy completion: retried, cached and paced like `ask`, but sent to `/completions`."""

from dataclasses import dataclass, replace
from typing import Any

from prefect.tasks import Task

from consensus_flows.tasks.calls.ask import answered, call_task
from consensus_flows.tasks.calls.call import Caller
from consensus_flows.tasks.calls.providers import Endpoint
from consensus_flows.tasks.calls.request import Answer, Request
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Response


async def _complete(request: Request) -> Answer:
    """Send a legacy completion once; Prefect calls this again for a retry.

    Raises:
        ModelError: If no complete answer came back.
        ConfigurationError: If the provider is unknown, has no key, or does not speak OpenAI's formats.
    """
    return await answered(request, _completions)


def _completions(endpoint: Endpoint) -> Endpoint:
    if endpoint.wire != "openai":
        raise ConfigurationError(f"{endpoint.provider} has no legacy completions: only OpenAI-compatible servers do")
    return replace(endpoint, wire="openai-completions")


def complete_task(*, fresh: bool = False) -> Task[[Request], Any]:
    """Return the task that lets a model go on with a text.

    Its requests must have gone through `as_completion`.
    """
    description = "Let a model go on with a text; retried, cached and paced."
    return call_task(_complete, "complete", description, fresh=fresh)


def as_completion(request: Request) -> Request:
    """Return `request` for `/completions`, under a key of its own."""
    return request.model_copy(update={"kind": "completion"})


@dataclass(frozen=True)
class Completer(Caller):
    """Makes a flow's calls as legacy completions."""

    @property
    def task(self) -> Task[[Request], Any]:
        """The task that makes the calls."""
        return complete_task(fresh=self.fresh)

    async def __call__(self, request: Request, *, instance: int = 1, member: str | None = None) -> Response:
        """Let a model go on with the text of `request`."""
        return await super().__call__(as_completion(request), instance=instance, member=member)
