"""The Oracle: a vendor with a wire format of its own, over plain httpx.

It answers `POST /v1/say` with `{"said": "...", "ended": "done", "tokens": {"read": 12, "written": 5}}`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import httpx
from pydantic import SecretStr

from consensus_flows.blocks.credentials import MAX_RESPONSE_MB, ModelCredentials
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.calls.vendors.vendor import Provider, Repairs, Reply, Vendor, schema_instruction, usage_of


class OracleCredentials(ModelCredentials):
    """Key for the Oracle. `consensus keys set oracle` saves it."""

    _block_type_name = "Oracle Credentials"
    _block_type_slug = "oracle-credentials"

    default_base_url: ClassVar[str | None] = "https://oracle.example"

    api_key: SecretStr

    def get_client(self, max_response_mb: float = MAX_RESPONSE_MB) -> httpx.AsyncClient:  # noqa: ARG002  # ours are short
        """Return a client. Retries are the task's, and a redirect would carry the key elsewhere."""
        headers = {"x-oracle-key": self.api_key.get_secret_value()}
        return httpx.AsyncClient(base_url=self.address, headers=headers, follow_redirects=False, trust_env=False)


class Oracle(Vendor):
    """How the Oracle is asked and understood."""

    name = "oracle"
    sdk = ("httpx",)
    blocks = (OracleCredentials,)
    providers: ClassVar[Mapping[str, Provider]] = {
        "oracle": Provider(OracleCredentials, ("ORACLE_API_KEY",), base_url_variable="ORACLE_BASE_URL")
    }
    # What it calls the settings. It has no seed, no reasoning effort and no tiers.
    parameters: ClassVar[Mapping[str, str | None]] = {
        "max_output_tokens": "words",
        "seed": None,
        "reasoning_effort": None,
        "service_tier": None,
    }

    def build(self, request: Request, repairs: Repairs) -> dict[str, Any]:
        """Build the body; `settings` leaves out what the model has refused before."""
        turns = [{"who": message.role, "words": message.content} for message in request.messages]
        if request.response_schema is not None:
            turns.append({"who": "system", "words": schema_instruction(request)})
        settings = self.settings(request, repairs)
        return {"model": request.model, "turns": turns, "settings": settings | request.sampling.extra}

    async def send(self, client: httpx.AsyncClient, request: Request, body: Mapping[str, Any]) -> Any:
        """Send it once. Errors of httpx are understood, HTTP statuses and their bodies too."""
        response = await client.post("/v1/say", json=dict(body), timeout=request.timeout)
        return response.raise_for_status().json()

    def read(self, request: Request, body: Mapping[str, Any], response: Any) -> Reply:  # noqa: ARG002  # not needed
        """Read the answer. What is wrong in it raises, and counts as a malformed response."""
        tokens = response.get("tokens", {})
        return Reply(
            text=response["said"],
            finish="length" if response.get("ended") == "cut" else "stop",
            usage=usage_of(tokens.get("read"), tokens.get("written")),
            model=response.get("model"),
        )

    async def list_models(self, client: httpx.AsyncClient, timeout: float) -> list[str]:
        """Ask for the list of models."""
        response = (await client.get("/v1/models", timeout=timeout)).raise_for_status()
        return [model["id"] for model in response.json()["data"]]


VENDOR = Oracle()
