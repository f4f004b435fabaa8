"""`consensus keys`: the credentials of providers, saved as Prefect blocks. A key is never an argument and never printed."""

import asyncio
import os
import sys
from getpass import getpass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from pydantic import SecretStr, ValidationError

from consensus_flows.blocks.credentials import ModelCredentials, OpenAICompatibleCredentials
from consensus_flows.blocks.member import PANEL, parse_model
from consensus_flows.blocks.spelling import did_you_mean
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.tables import put_rows
from consensus_flows.deployments.terminal import Exit, Stop, explain, say
from consensus_flows.tasks.calls.providers import base_url_of, built_in, credential_blocks
from consensus_flows.tasks.json_text import parse

OF_LLM = {"claude": "anthropic", "gemini": "google"}
"""Names of providers in the keys of `llm`, where they differ."""

GATEWAY_BLOCK = "consensus-gateway"
"""The Secret block with the token of `consensus serve`, where none is named."""

app = App(name="keys", help="Manage API keys, saved as Prefect blocks.")


@app.command(name="set")
def set_key(
    provider: str,
    *,
    base_url: Annotated[str | None, Parameter(metavar="URL")] = None,
    from_env: Annotated[str | None, Parameter(metavar="VARIABLE")] = None,
    like: Annotated[str | None, Parameter(metavar="PROVIDER")] = None,
    api_version: Annotated[str | None, Parameter(metavar="VERSION")] = None,
    project: Annotated[str | None, Parameter(metavar="ID")] = None,
    location: Annotated[str | None, Parameter(metavar="NAME")] = None,
    region: Annotated[str | None, Parameter(metavar="NAME")] = None,
    access_key_id: Annotated[str | None, Parameter(metavar="ID")] = None,
    allow_http_host: Annotated[list[str] | None, Parameter(negative="", metavar="HOST")] = None,
    max_concurrency: Annotated[int | None, Parameter(metavar="N")] = None,
    requests_per_minute: Annotated[int | None, Parameter(metavar="N")] = None,
    price: Annotated[list[str] | None, Parameter(negative="", metavar="MODEL=IN/OUT")] = None,
) -> Exit:
    """Save an API key. Prompts for it without showing it, or reads it from a variable or standard input.

    Args:
        provider: A built-in provider, such as openai, anthropic, google, azure, vertex or bedrock, or a name of your own.
        base_url: URL of the server, for a name of your own; endpoint of the resource, for azure.
        from_env: Environment variable that contains the key.
        like: Built-in provider that a name of your own is another account of.
        api_version: Version of the API, for azure; default: the v1 API.
        project: Google Cloud project, for vertex and vertex-anthropic.
        location: Google Cloud location, for vertex and vertex-anthropic; default: global.
        region: AWS region, for bedrock.
        access_key_id: ID of the AWS access key whose secret is the key, for bedrock; default: an API key of Bedrock.
        allow_http_host: Host that may receive the key over plain http. May be repeated.
        max_concurrency: Maximum number of concurrent calls in each process.
        requests_per_minute: Maximum number of calls started per minute in each process.
        price: Price of a model: MODEL=IN/OUT, in USD per million input and output tokens. May be repeated.
    """
    block_class, default_url = _class_of(provider, base_url, like)
    options = {
        "max_concurrency": max_concurrency,
        "requests_per_minute": requests_per_minute,
        "api_version": api_version,
        "project": project,
        "location": location,
        "region": region,
        "access_key_id": access_key_id,
        "base_url": base_url or default_url,
    }
    fields: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if strange := sorted(set(fields) - set(block_class.model_fields)):
        raise Stop(f"{provider}: unknown field {strange[0].replace('_', '-')}")
    fields |= {"prices": price or [], "allowed_http_hosts": allow_http_host or []}
    optional = not block_class.model_fields["api_key"].is_required()
    # Before the key is asked for.
    _make(block_class, provider, fields if optional else fields | {"api_key": SecretStr("a-key")})
    key = _read_key(provider, from_env, optional=optional, whole=block_class.key_has_lines)
    block = _make(block_class, provider, fields | ({"api_key": SecretStr(key)} if key else {}))
    connect()
    asyncio.run(_save({provider: block}))
    say(f"saved the credentials of {provider}")
    return Exit.ANSWER


@app.command(name="import")
def import_keys(file: Path) -> Exit:
    """Save the keys of a file: a .env, the keys.json of `llm` (`llm keys path`), or JSON as shown below.

    {"openai": {"api-key": "..."}, "my-server": {"base-url": "https://...", "api-key": "..."}}

    Args:
        file: The file.
    """
    try:
        text = file.read_text(encoding="utf-8")
        entries: Any = (
            parse(text) if file.suffix == ".json" or text.lstrip().startswith("{") else _variables(file, text)
        )
    except OSError as error:
        raise Stop(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Stop(f"{file} is not valid JSON: line {getattr(error, 'lineno', '?')}") from None
    if isinstance(entries, dict) and all(isinstance(entry, str) for entry in entries.values()):
        entries = _keys_of_llm(entries)
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise Stop(f'{file} must hold an object by provider: {{"openai": {{"api-key": "..."}}}}')
    blocks: dict[str, ModelCredentials] = {}
    for provider, entry in entries.items():
        fields = {name.replace("-", "_"): value for name, value in entry.items()}
        block_class, default_url = _class_of(provider, fields.get("base_url"), fields.pop("like", None))
        if default_url is not None:
            fields.setdefault("base_url", default_url)
        unknown = sorted(set(fields) - set(block_class.model_fields))
        if unknown:
            raise Stop(f"{provider}: unknown field {unknown[0]!r}.{did_you_mean(unknown[0], block_class.model_fields)}")
        blocks[provider] = _make(block_class, provider, fields)
    connect()
    asyncio.run(_save(blocks))
    say(f"saved the credentials of {', '.join(blocks) or 'nobody: the file is empty'}")
    return Exit.ANSWER


def _variables(file: Path, text: str) -> dict[str, dict[str, str]]:
    """Read the keys and addresses of built-in providers from a .env."""
    from dotenv import dotenv_values

    values = dotenv_values(stream=StringIO(text), interpolate=False)
    found: dict[str, dict[str, str]] = {}
    for provider, known in built_in().items():
        if any(values.get(name) for name in known.needs or known.keys):
            found[provider] = known.given(values)
    if not found:
        variables = ", ".join(known.keys[0] for known in built_in().values() if known.keys)
        raise Stop(f"{file} sets none of {variables}")
    return found


def _keys_of_llm(keys: dict[str, str]) -> dict[str, dict[str, str]]:
    """Read the keys of `llm`, which names some providers otherwise and notes in the file what it is."""
    names = {provider: OF_LLM.get(provider, provider) for provider in keys if not provider.startswith("//")}
    known = {name for name, one in built_in().items() if one.block}
    if strange := [provider for provider, name in names.items() if name not in known]:
        say(f"skipped {', '.join(strange)}: no built-in provider; `consensus keys set NAME --base-url ...` saves one")
    return {name: {"api-key": keys[provider]} for provider, name in names.items() if name in known}


@app.command
def token(
    *,
    block: Annotated[str, Parameter(metavar="NAME")] = GATEWAY_BLOCK,
    from_env: Annotated[str | None, Parameter(metavar="VARIABLE")] = None,
) -> Exit:
    """Save the token that clients of `consensus serve` must send. Prompts for it, or reads it from a variable or standard input.

    Args:
        block: Name of the Secret block, for `consensus serve --token-block`.
        from_env: Environment variable that contains the token.
    """
    from prefect.blocks.system import Secret

    text = _read_key("the gateway", from_env, optional=False)
    connect()

    async def save() -> None:
        # Awaited, as `save` is asynchronous where an event loop runs.
        await Secret(value=SecretStr(text)).save(block, overwrite=True)

    asyncio.run(save())
    say(f"saved the token as the Secret block {block}")
    return Exit.ANSWER


@app.command(name="list")
def list_keys() -> Exit:
    """List the saved keys, without showing them: name, type, base URL, and whether that comes from the block or the environment.

    In a pipe, one tab-separated line per key, in this order.
    """
    connect()
    rows = []
    for name, slug, data in asyncio.run(saved()):
        where = base_url_of(name, data.get("base_url"))
        address = where.url or credential_blocks()[slug].model_construct(**data).address
        rows.append([name, slug, address, where.describe()])
    put_rows(["name", "type", "base URL", "where from"], rows, wide="where from", least=("type",))
    return Exit.ANSWER


@app.command
def remove(provider: str) -> Exit:
    """Remove the saved key of a provider.

    Args:
        provider: Name of the provider.
    """
    connect()

    async def delete() -> bool:
        slugs = [slug for name, slug, _ in await saved() if name == provider]
        for slug in slugs:
            await credential_blocks()[slug].adelete(provider)
        return bool(slugs)

    if not asyncio.run(delete()):
        raise Stop(f"no credentials are saved as {provider!r}")
    say(f"removed the credentials of {provider}")
    return Exit.ANSWER


async def saved() -> list[tuple[str, str, dict[str, Any]]]:
    """List name, type and fields of all saved credentials; the server masks the keys."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        response = await client.request(
            "POST", "/block_documents/filter", json={"block_types": {"slug": {"any_": sorted(credential_blocks())}}}
        )
    return sorted((item["name"], item["block_type"]["slug"], item["data"]) for item in response.json())


async def _save(blocks: dict[str, ModelCredentials]) -> None:
    for provider, block in blocks.items():
        # Awaited, as `save` is asynchronous where an event loop runs.
        await block.save(provider, overwrite=True)


def _class_of(provider: str, base_url: str | None, like: str | None) -> tuple[type[ModelCredentials], str | None]:
    try:
        parse_model(f"{provider}/x")
    except ValueError:
        raise Stop(f"{provider!r} is not a valid provider name: use lower-case letters, digits and dashes") from None
    if provider == PANEL:
        raise Stop(f"{PANEL} is reserved: {PANEL}/NAME is a saved panel as a member of another; choose another name")
    known = built_in().get(like or provider)
    if known is not None and known.block is not None:
        return known.block, known.base_url
    if base_url is None or like is not None:
        names = [name for name, one in built_in().items() if one.block]
        raise Stop(
            f"unknown provider {like or provider!r}.{did_you_mean(like or provider, names)} Use one of {', '.join(names)}, or set the address of an OpenAI-compatible server with --base-url"
        )
    return OpenAICompatibleCredentials, None


def _make(block_class: type[ModelCredentials], provider: str, fields: dict[str, Any]) -> ModelCredentials:
    try:
        return block_class.model_validate(fields)
    except ValidationError as error:
        raise Stop(f"{provider}: {explain(error, {'api_key': 'api-key', 'base_url': 'base-url'})}") from None


def _read_key(provider: str, from_env: str | None, *, optional: bool, whole: bool = False) -> str:
    if from_env is not None:
        key = os.environ.get(from_env, "")
        if not key:
            raise Stop(f"--from-env {from_env}: this variable is not set")
    elif sys.stdin.isatty():
        key = getpass(f"Key of {provider}{' (empty for none)' if optional else ''}: ", stream=sys.stderr)
    else:
        key = sys.stdin.read() if whole else sys.stdin.readline()
    key = key.strip()
    if not key and not optional:
        raise Stop(f"no key given for {provider}")
    return key
