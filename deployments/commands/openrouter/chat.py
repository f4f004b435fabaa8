"""`consensus openrouter chat`: several turns with one model."""

import asyncio
import json
import sys
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.deployments.commands.algorithms.chat import lines
from consensus_flows.deployments.commands.algorithms.questions import Prompt, PromptOptions
from consensus_flows.deployments.commands.openrouter.account import one_model
from consensus_flows.deployments.options import RunOptions
from consensus_flows.deployments.run import OutputOptions, record_of
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import (
    Exit,
    Stop,
    checked_output,
    put,
    put_json,
    say,
    server_failure,
    write_whole,
)
from consensus_flows.deployments.view import state
from consensus_flows.flows.pump import pump
from consensus_flows.tasks.calls.providers import warm_up
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.prompts import prompt as prompt_file_text
from consensus_flows.tasks.record import Record, bill_of
from consensus_flows.tasks.watch import watched_by

LEAVE = ("exit", "quit")


def chat(
    *,
    model: Annotated[str, Parameter(name=["--model", "-m"], metavar="MODEL")],
    prompt: Prompt = None,
    mode: Literal["interactive", "improve"] = "interactive",
    turns: Annotated[int, Parameter(metavar="N")] = 3,
    improvement_prompt: Annotated[str | None, Parameter(metavar="TEXT")] = None,
    source: PromptOptions | None = None,
    options: RunOptions | None = None,
    out: OutputOptions | None = None,
) -> Exit:
    """Chat with a model until you type exit, or ask it once and let it improve its answer.

    Args:
        model: Model, as author/slug or author/slug:free.
        prompt: First prompt; - reads it from standard input. Optional in an interactive chat.
        mode: A conversation, or one prompt with improvements of the answer.
        turns: Number of answers with --mode improve, all of them paid.
        improvement_prompt: Prompt after each answer with --mode improve.
        source: Where else it is read.
        options: Sampling settings and limits; a budget is that of one turn.
        out: What is printed and written.
    """
    if turns < 1:
        raise Stop(f"--turns is {turns}: it must be at least 1")
    out = out or OutputOptions()
    output = checked_output(out.output)
    interactive = mode == "interactive"
    source = source or PromptOptions()
    if interactive and (prompt == "-" or source.stdin or str(source.prompt_file) == "-"):
        raise Stop(
            "--prompt -, --prompt-file - and --stdin read standard input to its end, and an interactive chat continues there"
        )
    if interactive:
        source.stdin = False  # what is piped in are the turns
    first = source.question(prompt) if not interactive or prompt or source.given() else None
    session = Session(one_model(model, options), out)
    warm_up(["openrouter"])
    connect()
    try:
        if interactive:
            good = _talk(session, first)
        else:
            good = _improve(session, first or "", turns, improvement_prompt or prompt_file_text("openrouter_improve"))
    except Exception:
        if session.last is not None:  # earlier turns are paid for
            _deliver(session, output, show=not interactive)
        raise
    _deliver(session, output, show=not interactive)
    return Exit.ANSWER if good else Exit.NO_ANSWER


def _deliver(session: "Session", output: Path | None, *, show: bool) -> None:
    """Print and write what came of the turns; each is done also where the other one fails."""
    document = session.document()
    try:
        if session.out.json:
            put_json(document)
        elif show and session.last is not None:
            put(session.last)
    finally:
        if output is not None:
            write_whole(output, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


class Session:
    """A conversation with one model; every turn is a run of the pump flow with that model alone."""

    def __init__(self, config: PumpConfig, out: OutputOptions) -> None:
        self._config, self.out = config, out
        self._records: list[Record] = []
        self._turns: list[Message] = []
        self.last: str | None = None

    def ask(self, text: str) -> bool:
        """Ask, and tell whether there is an answer; a question without one does not become part of the conversation."""
        seen = _LastRecord()
        try:
            with watched_by(seen):
                record = asyncio.run(record_of(pump(text, self._config, conversation=list(self._turns))))
        except Exception as error:
            failure = server_failure(error)
            if seen.record is None or failure is None:
                raise
            say(f"consensus: the Prefect server did not record the end of the run ({failure})")
            record = seen.record
        self._records.append(record)
        if record.answer is None:
            say(f"consensus: no answer: {record.error}")
            return False
        self.last = record.answer
        self._turns += [Message(role="user", content=text), Message(role="assistant", content=record.answer)]
        if not (self.out.json or self.out.raw):
            say(f"  {state(record.iterations[0].responses[0])}, {bill_of(record)}")
        return True

    def document(self) -> dict[str, Any]:
        """Return the conversation, and the records of its turns."""
        return {
            "conversation": [turn.model_dump() for turn in self._turns],
            "records": [record.model_dump(mode="json") for record in self._records],
        }


class _LastRecord:
    """Keeps the record of a turn, which is paid for even if the Prefect server fails at its end."""

    record: Record | None = None

    async def on_event(self, event: str, value: Any) -> None:
        """Take note of the record."""
        if event == "recorded":
            self.record = value


def _improve(session: Session, first: str, turns: int, improvement: str) -> bool:
    for number in range(turns):
        if number and session.last is not None and not (session.out.json or session.out.raw):
            say(f"\nTurn {number}:\n{session.last}\n")
        if not session.ask(first if number == 0 else improvement):
            return False
    return True


def _talk(session: Session, first: str | None) -> bool:
    """Ask what is typed until there is nothing more; the result is that of the last turn."""
    if sys.stdin.isatty():
        say(f"Type {' or '.join(LEAVE)}, or end the input, to leave.")
    good = True
    for text in chain([first.strip()] if first else [], lines()):
        if text.lower() in LEAVE:
            break
        if text:
            good = session.ask(text)
            if good and session.last is not None and not session.out.json:
                put(session.last)
    return good
