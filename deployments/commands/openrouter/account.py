"""`consensus openrouter`: what the account has left, which models there are, which free ones work, and a quick question."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App, Parameter

from consensus_flows.blocks.free_models import FreeModelsConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.deployments.commands.algorithms.questions import Prompt, PromptOptions, folder
from consensus_flows.deployments.options import RunOptions, configured
from consensus_flows.deployments.run import OutputOptions, run_flow
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, put, put_json, say
from consensus_flows.tasks.calls.providers import close_clients
from consensus_flows.tasks.openrouter import (
    FILES,
    PROVIDER,
    TRIED,
    Trial,
    account,
    free_models,
    list_models,
    write_models,
)
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.watch import watched_by

app = App(
    name="openrouter", help="Show OpenRouter's credits, models, and which free ones work; complete a text, or chat."
)
app.command("consensus_flows.deployments.commands.openrouter.chat:chat", name="chat", help="Chat with one model.")

Found = TypeVar("Found")


@app.command
def credits(*, json: Annotated[bool, Parameter(negative="")] = False) -> Exit:  # noqa: A001  # the command's name
    """Print the usage and remaining credits of the account and the key, in US dollars.

    OpenRouter shows the account's credits only to a management key; with any other key, its limits are printed.

    Args:
        json: Print JSON.
    """
    found = _ask(account())
    for note in found["notes"]:
        say(f"consensus: {note}")
    if json:
        put_json({name: found[name] for name in ("credits", "key")})
        return Exit.ANSWER
    for name in ("credits", "key"):
        for field, value in (found[name] or {}).items():
            if value is None or isinstance(value, bool | int | float | str):
                put(f"{name}\t{field}\t{_shown(value)}")
    return Exit.ANSWER


@app.command
def models(
    *,
    output_dir: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> Exit:
    """List the free models.

    Args:
        output_dir: Folder into which all models are written as `models.json`, and the free ones as `free_models.json`.
        json: Print both lists as JSON.
    """
    where = None if output_dir is None else folder(output_dir, "--output-dir")
    found = _ask(list_models())
    free = free_models(found)
    if where is not None:
        write_models(where, found, free)
        say(
            f"{plural(len(found), 'model')}, {len(free)} of them free: {where / 'models.json'}, {where / 'free_models.json'}"
        )
    if json:
        put_json({"models": found, "free_models": free})
    else:
        put("\n".join(model["id"] for model in free))
    return Exit.ANSWER


@app.command
def working_models(
    *,
    output_dir: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
    interval: Annotated[float, Parameter(metavar="SECONDS")] = 3.0,
    model: Annotated[list[str] | None, Parameter(name=["--model", "-m"], negative="", metavar="MODEL")] = None,
    timeout: Annotated[float, Parameter(metavar="SECONDS")] = 60.0,
    again: Annotated[bool, Parameter(negative="")] = False,
    fresh: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> Exit:
    """Test each free model at both endpoints, and write those that work as JSON. Tested models are not tested again.

    The exit code is 1 if a limit of the account ended the run early; run it again to continue.

    Args:
        output_dir: Folder of the files and the results; default: the current one.
        interval: Seconds between requests; OpenRouter allows 20 a minute for free models.
        model: Free model to test; default: all. May be repeated.
        timeout: Timeout of a request, in seconds.
        again: Retry models that failed for a temporary reason.
        fresh: Discard earlier results, and test all models.
        json: Print the result as JSON on stdout, and nothing else.
    """
    from consensus_flows.flows.openrouter_models import openrouter_working_models

    where = folder(output_dir or Path(), "--output-dir")
    config = FreeModelsConfig(
        output_dir=str(where.resolve()),
        models=model or [],
        interval=interval,
        timeout=timeout,
        again=again,
        fresh=fresh,
    )

    async def run() -> Any:
        with watched_by(*([] if json else [_Lines()])):
            return await openrouter_working_models(config)

    found = _ask(run())
    if json:
        put_json(found.model_dump(mode="json"))
    else:
        for endpoint in FILES:
            put("\n".join(f"{endpoint}\t{name}" for name in getattr(found, endpoint)) or f"{endpoint}\t(none)")
        tried = f"{plural(len(found.trials), 'test')}, {found.tried_now} of them now"
        say(f"{tried}: {', '.join(str(where / name) for name in (*FILES.values(), TRIED))}")
    if found.stopped:
        say(f"consensus: {plural(len(found.untried), 'model')} left to try: {found.stopped}")
        return Exit.NO_ANSWER
    return Exit.ANSWER


@app.command
def completion(
    *,
    prompt: Prompt = None,
    model: Annotated[str, Parameter(name=["--model", "-m"], metavar="MODEL")],
    source: PromptOptions | None = None,
    options: RunOptions | None = None,
    out: OutputOptions | None = None,
) -> Exit:
    """Complete a text, at the legacy completions endpoint.

    Args:
        prompt: Text; - reads it from standard input.
        model: Model, as author/slug or author/slug:free.
        source: Where else it is read.
        options: Sampling settings and limits.
        out: What is printed and written.
    """
    from consensus_flows.flows.completion import completion as flow

    text, config = (source or PromptOptions()).question(prompt), one_model(model, options)
    return run_flow(lambda: flow(text, config), [str(member) for member in config.panel()], out or OutputOptions())


def one_model(model: str, options: RunOptions | None) -> PumpConfig:
    """Return the settings of a panel of one model of OpenRouter's, by OpenRouter's name or by ours."""
    name = model.strip()
    if name.startswith(f"{PROVIDER}/") and name.count("/") > 1:  # `openrouter/auto` is a model of its own
        name = name.removeprefix(f"{PROVIDER}/")
    members = [f"{PROVIDER}/{name}"]
    config = configured(PumpConfig, options, {"members": members})
    if config.members != members:
        raise Stop("members: set in both --config and --model: remove them from the file")
    return config


class _Lines:
    """Tells of each trial in a line."""

    async def on_event(self, event: str, value: Any) -> None:
        """Print an event."""
        if event == "started":
            say(f"{plural(len(value), 'trial')} to do")
        elif event == "tried" and isinstance(value, Trial):
            what = value.error.message if value.error and not value.works else f"{value.latency_s:.1f} s"
            say(f"  {'✓' if value.works else '✗'} {value.model} {value.endpoint}: {what}")


def _ask(action: Awaitable[Found]) -> Found:
    async def run() -> Found:
        try:
            return await action
        finally:
            await close_clients()

    connect()
    return asyncio.run(run())


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
