"""The loopback vendors with OpenRouter's own addresses: credits, key, models with prices, legacy completions."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.vendors import LoopbackVendors, Reply, SeenRequest
from tests.vendors.connection import Connection, RawRequest
from tests.vendors.routes import render

BASE = "/openrouter/api/v1"
FREE = {"prompt": "0", "completion": "0", "request": "0", "image": "0.0"}
PAID = {"prompt": "0.000001", "completion": "0.000002", "request": "0"}
CREDITS = {"total_credits": 10.0, "total_usage": 2.5}
KEY = {
    "label": "sk-or-v1-abc...123",
    "limit": 10,
    "limit_remaining": 7.5,
    "usage": 2.5,
    "is_free_tier": False,
    "creator_user_id": "user_loopback",
}


def described(name: str, pricing: Any) -> dict[str, Any]:
    """Describe a model as OpenRouter does."""
    return {"id": name, "name": name.title(), "context_length": 8192, "pricing": pricing}


class OpenRouterServer(LoopbackVendors):
    """Answers of `/completions` follow the script of `<model> completions`, those of the account `/credits` and `/key`."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = [
            described("a/free:free", FREE),
            described("b/free:free", FREE),
            described("c/paid", PAID),
            described("openrouter/auto", {"prompt": "-1", "completion": "-1"}),
            described("d/unpriced", {}),
        ]

    def _handle(self, connection: Connection, raw: RawRequest) -> None:
        path = raw.path.removeprefix(BASE)
        account = {"/credits": CREDITS, "/key": KEY, "/models": self.listed}
        if raw.method == "GET" and path in account and path != raw.path:
            seen = SeenRequest("openai", "models", path, raw.path, [], None, {}, raw.headers)
            self._reply(connection, seen, json.dumps({"data": account[path]}).encode())
        elif raw.method == "POST" and path == "/completions":
            params = json.loads(raw.body)
            name = f"{params['model']} completions"
            asked = [{"role": "user", "content": params["prompt"]}]
            self._reply(connection, SeenRequest("openai", "chat", name, raw.path, asked, None, params, raw.headers))
        else:
            super()._handle(connection, raw)

    def _reply(self, connection: Connection, seen: SeenRequest, body: bytes | None = None) -> None:
        seen.at = time.time()
        step = self.note(seen)
        if seen.model in {"/credits", "/key"}:  # each has a script of its own, as the list of models has
            script = self._scripts.get(seen.model)
            step = script.next() if script else None
        reply = step if isinstance(step, Reply) else step(seen) if step else Reply()
        headers, made = render(seen, reply, [])
        if reply.status < 400 and reply.body is None:
            made = body if body is not None else _completion(made)
        self._answer(connection, seen, reply, headers, made)


def _completion(chat: bytes) -> bytes:
    """Turn a chat completion into a legacy one."""
    answer = json.loads(chat)
    for choice in answer["choices"]:
        choice["text"] = choice.pop("message")["content"]
    answer["object"] = "text_completion"
    return json.dumps(answer).encode()
