"""`consensus pump`: one question to many models at once, every answer under its model's name."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.deployments.algorithm_commands import Given, Name, ask, choose
from consensus_flows.deployments.commands.algorithms.questions import Prompt, QuestionOptions, folder
from consensus_flows.deployments.options import OUTPUT, options_type
from consensus_flows.deployments.run import TurnOptions
from consensus_flows.deployments.terminal import Exit, put, say, write_whole
from consensus_flows.deployments.view import say_warnings
from consensus_flows.flows.pump import heading
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.prompting.prompt_sets import prompt_set
from consensus_flows.tasks.record import Record, Response, bill_of


def command(
    prompt: Prompt = None,
    *,
    source: QuestionOptions | None = None,
    responses: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FOLDER")] = None,
    name: Name = None,
    given: Given | None = None,
    out: TurnOptions | None = None,
) -> Exit:
    """Ask many models at once, and print each answer as it arrives, with its latency.

    The exit code is 0 if at least one member answers, or as many as --quorum requires. With --raw, answers are printed at
    the end, in the order of the members and without latencies; a single answer has no heading.

    Args:
        prompt: Prompt; - reads it from standard input.
        source: Where else it is read.
        responses: Folder for the answers, one file per member.
        name: Name of a saved configuration; options override it.
        given: The settings.
        out: What is printed and written.
    """
    source = source or QuestionOptions()
    text = source.question(prompt)
    one, config = choose(name, given or {}, "pump")
    into = folder(responses, "--responses") if responses else None

    def written(record: Record) -> dict[str, Any]:
        if into is not None:
            write_responses(into, record)
        return record.model_dump(mode="json")

    return ask(one, text, config, out or TurnOptions(), shape=written, attachments=source.attachments())


command.__annotations__["given"] = options_type(PumpConfig)


def view(config: PumpConfig) -> "AsTheyCome":
    """Return what prints the answers."""
    return AsTheyCome(len(config.panel()), config.prompt_set)


class AsTheyCome:
    """Prints every answer on stdout as soon as it is there, and who failed on stderr."""

    def __init__(self, members: int, prompted_by: str = "plain") -> None:
        self._members = members
        self._prompted_by = prompted_by
        self._asking = False

    async def on_event(self, event: str, value: Any) -> None:
        """Print an answer."""
        if event == "started":
            self._asking = True  # what comes before is the grade of the question
            say(f"asking {plural(self._members, 'member')}")
        elif event == "answered" and self._asking:
            took = f"{value.latency_s:.1f} s{', from the cache' if value.cached else ''}"
            if value.error is None and value.embedding is None:
                put(f"{heading(value)} ({took})\n\n{divided_text(prompt_set(self._prompted_by).divided(value))}\n")
            elif value.error is None:
                say(f"  ✓ {value.member} ({took})")
            else:
                say(f"  ✗ {value.member}: {value.error.kind} ({took})")  # why is said in the end


def divided_text(response: Response) -> str:
    """Return an answer as it is printed: the sources under it, and without the reasoning before it."""
    sources = [" ".join(source.split()) for source in response.citations]
    return "\n".join([response.text or "", *(["", "Sources that it names:", *sources] if sources else [])])


def show(record: Record, ui_url: str) -> None:
    """Print on stderr how the run ended."""
    responses = record.iterations[0].responses if record.iterations else []
    failed = {response.member: response.error for response in responses if response.error}
    if record.answer is not None:  # else the error names them all
        for member, error in failed.items():
            say(f"  ! {member}: {error.message}")
    say_warnings(record, failed)
    # One from the cache took its time in an earlier run.
    made = [response for response in responses if not response.cached]
    slowest = max(made, key=lambda response: response.latency_s, default=None)
    beside = f", the slowest {slowest.member} {slowest.latency_s:.1f} s" if slowest else ""
    say(
        f"total {record.duration_s:.1f} s{beside} · {sum(r.answered for r in responses)} of {len(responses)} answered, "
        f"{record.cached_calls} from the cache · {bill_of(record)}"
    )
    if ui_url and record.flow_run_id:
        say(f"The run in the UI: {ui_url}/runs/flow-run/{record.flow_run_id}")


def write_responses(folder: Path, record: Record) -> None:
    """Write each member's answer into a file of its own.

    The file of a member that failed is removed: what an earlier run left there does not answer this question.
    """
    for response in record.iterations[0].responses if record.iterations else []:
        path = folder / file_name(response)
        if response.answered:
            write_whole(path, f"{response.text}\n")
        else:
            path.unlink(missing_ok=True)


def file_name(response: Response) -> str:
    """Return a member's name as that of a file: `openai/gpt-x#1` gives `openai_gpt-x-1.md`.

    Where characters had to be replaced, or the name cut, a digest of the whole name keeps it apart from others.
    """
    plain = response.member.replace("/", "_", 1).replace("#", "-")
    safe = re.sub(r"[^a-z0-9._-]+|\.{2,}", "-", plain)[:100].strip(".-")
    if safe != plain:
        safe = f"{safe}-{hashlib.sha256(response.member.encode('utf-8', 'replace')).hexdigest()[:8]}"
    return f"{safe}.md"
