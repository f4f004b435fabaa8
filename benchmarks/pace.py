"""Whether calls go as fast as a provider takes them: how much of its limit is used, and how many calls it refuses.

    python benchmarks/pace.py

Three providers on loopback, each asked for two models, through the SDK and the pace of `tasks/calls/pace.py`, with the retries
of the `ask` task, without a Prefect server. Each has more to do than it takes, for two minutes:

- one takes 600 requests a minute and bursts of 60, and says so in its headers, as OpenAI and Anthropic do;
- one takes as many and says nothing but 429 and Retry-After;
- one takes 50 requests at once, and answers 529 to more.
"""

import argparse
import asyncio
import json
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field

from common import ROOT  # noqa: F401  # it makes this checkout importable
from pydantic import SecretStr

from consensus_flows.blocks import OpenAICompatibleCredentials
from consensus_flows.tasks.calls.attempt import attempt
from consensus_flows.tasks.calls.pace import pace_of
from consensus_flows.tasks.calls.providers import BACKOFF_S, Endpoint
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.calls.vendors.vendor import all_vendors
from consensus_flows.tasks.errors import ModelError

PER_S = 10.0
BURST = 60
AT_ONCE = 50
LATENCY_S = (0.3, 1.2)
USED, REFUSED = 0.95, 0.01
"""Targets: so much of the limit at least, and so many refusals at most."""


@dataclass
class Provider:
    """A provider with a limit."""

    name: str
    tells: bool = False
    at_once: int | None = None
    served: int = 0
    refused: int = 0
    models: dict[str, int] = field(default_factory=dict)
    level: float = BURST
    under_way: int = 0
    busy_s: float = 0.0
    _at: float = field(default_factory=time.monotonic)

    def admits(self) -> bool:
        """Tell whether a request is taken now."""
        now = time.monotonic()
        self.level, self._at = min(BURST, self.level + (now - self._at) * PER_S), now
        if self.at_once is not None:
            return self.under_way < self.at_once
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def headers(self) -> dict[str, str]:
        """Return what it says of its limit."""
        if not self.tells:
            return {}
        return {
            "x-ratelimit-limit-requests": f"{60 * PER_S:.0f}",
            "x-ratelimit-remaining-requests": f"{int(self.level)}",
            "x-ratelimit-reset-requests": f"{(BURST - self.level) / PER_S:.3f}s",
        }

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection."""
        with suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                size = int(head.partition("content-length:")[2].split("\r\n", 1)[0])
                model = json.loads(await reader.readexactly(size))["model"]
                status, headers, body = 200, self.headers(), completion(model)
                if self.admits():
                    began = time.monotonic()
                    self.under_way += 1
                    await asyncio.sleep(random.uniform(*LATENCY_S))
                    self.under_way -= 1
                    self.busy_s += time.monotonic() - began
                    self.served += 1
                    self.models[model] = self.models.get(model, 0) + 1
                    headers = self.headers()
                else:
                    self.refused += 1
                    status, body = 529 if self.at_once else 429, '{"error": {"message": "slow down", "type": "limit"}}'
                    if not self.at_once:
                        headers["retry-after"] = "1"
                lines = [f"HTTP/1.1 {status} x", "content-type: application/json", f"content-length: {len(body)}"]
                lines += [f"{name}: {value}" for name, value in headers.items()]
                writer.write(("\r\n".join(lines) + f"\r\n\r\n{body}").encode())
                await writer.drain()


def completion(model: str) -> str:
    """Return an answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    kind = "chat.completion"
    return json.dumps({"id": "x", "object": kind, "created": 1, "model": model, "choices": [choice], "usage": usage})


async def run(provider: Provider, seconds: float) -> dict[str, object]:
    """Ask a provider as fast as it goes, for so many seconds."""
    server = await asyncio.start_server(provider.answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    block = OpenAICompatibleCredentials(base_url=url, api_key=SecretStr("bench"))
    endpoint = Endpoint(provider.name, all_vendors()["openai"], url, None, credentials=block)
    ends = time.monotonic() + seconds

    async def ask(model: str) -> None:
        request = Request(provider=provider.name, model=model, messages=(Message(role="user", content="?"),))
        tried = 0
        while time.monotonic() < ends:
            try:
                await attempt(request, endpoint)
                tried = 0
            except ModelError as error:
                tried += 1
                await asyncio.sleep(max(error.wait_s or 0, BACKOFF_S * 2 ** (tried - 1) * random.uniform(1, 1.5)))

    async with asyncio.TaskGroup() as group:
        started = time.monotonic()
        asked = [group.create_task(ask(model)) for model in ("a", "b", "b", "b") for _ in range(50)]
        await asyncio.sleep(seconds)
        took, served, pace = time.monotonic() - started, provider.served, pace_of(endpoint)
        for one in asked:
            one.cancel()
    server.close()
    most = BURST + PER_S * took if provider.at_once is None else provider.at_once * took
    return {
        "provider": provider.name,
        "served": served,
        "of the limit": (served if provider.at_once is None else provider.busy_s) / most,
        "refused": provider.refused / max(1, provider.refused + served),
        "of model a": provider.models.get("a", 0) / max(1, served),
        "at once, in the end": round(pace.at_once),
    }


async def main(seconds: float) -> None:
    """Run all at the same time, and print a table."""
    for vendor in all_vendors().values():
        if vendor.name == "openai":
            vendor.load()
    providers = [
        Provider("600 a minute, in headers", tells=True),
        Provider("600 a minute, unsaid"),
        Provider("50 at once", at_once=AT_ONCE),
    ]
    found = await asyncio.gather(*(run(one, seconds) for one in providers))
    print("| " + " | ".join(found[0]) + " |\n|" + "---|" * len(found[0]))
    for one in found:
        print(
            "| "
            + " | ".join(f"{value:.1%}" if isinstance(value, float) else str(value) for value in one.values())
            + " |"
        )
    used, refused = float(str(found[0]["of the limit"])), float(str(found[0]["refused"]))
    print(f"\nTargets, where the provider says its limit: {USED:.0%} of it, and less than {REFUSED:.0%} refused")
    if used < USED or refused >= REFUSED:
        raise SystemExit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    asyncio.run(main(parser.parse_args().seconds))
