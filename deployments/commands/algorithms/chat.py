"""`consensus chat`: a conversation with a panel, turn after turn."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated

from cyclopts import Parameter

from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.deployments.algorithm_commands import Given, Name, ask, choose
from consensus_flows.deployments.commands.algorithms.conversations import ConversationOptions
from consensus_flows.deployments.options import OUTPUT, options_type
from consensus_flows.deployments.run import TurnOptions
from consensus_flows.deployments.terminal import Exit, say
from consensus_flows.tasks.attachments import attached
from consensus_flows.tasks.errors import ConsensusError
from consensus_flows.tasks.history.writing import Conversation
from consensus_flows.tasks.record import Attachment

PROMPT = "> "
ATTACH = "/attach "
HELP = "/attach FILE attaches a file to the next turn, /new begins a new conversation, /quit or Ctrl-D ends"


def chat(
    *,
    name: Name = None,
    given: Given | None = None,
    conversation: ConversationOptions | None = None,
    raw: Annotated[bool, Parameter(group=OUTPUT)] = False,
) -> Exit:
    """Chat with a saved configuration of any algorithm, or with a consortium; each line is a turn.

    Answers go to stdout, everything else to stderr. Lines may be piped in; the exit code is then 1 if one of them had no
    answer.

    Args:
        name: Name of a saved configuration; default: `default`.
        given: The settings; they override what is saved, of whatever flow.
        conversation: Which conversation is continued.
        raw: Print only the answers.
    """
    conversation = conversation or ConversationOptions()
    current = conversation.conversation
    one, config = choose(name, given or {})
    if not raw:
        say(f"{_where(current)} {HELP}.")
    failed = False
    files: list[Attachment] = []
    for line in lines():
        if line in {"/quit", "/exit"}:
            break
        if line in {"/help", "/?"}:
            say(HELP)
        elif line == "/new":
            current = Conversation()
            say("A new conversation.")
        elif line.startswith(ATTACH):
            with reported():
                files.append(attached(line.removeprefix(ATTACH), "/attach"))
        elif line:
            failed |= not _turn(partial(ask, one, line, config, attachments=files), current, raw=raw)
            files = []
    if not raw and current.parent:
        say(f"To continue: consensus chat --cid {current.id}")
    return Exit.NO_ANSWER if failed and not sys.stdin.isatty() else Exit.ANSWER


chat.__annotations__["given"] = options_type(ConsortiumConfig)


def _turn(turn: Callable[[TurnOptions], Exit], current: Conversation, *, raw: bool) -> bool:
    """Ask, and tell whether there was an answer; the conversation then goes on after it."""
    out = TurnOptions(raw=raw)
    out.brief = True
    out.conversation = current
    with reported():
        return turn(out) in {Exit.ANSWER, Exit.BUDGET}
    return False


@contextmanager
def reported() -> Iterator[None]:
    """Say what went wrong in a line; the chat goes on."""
    try:
        yield
    except ConsensusError as error:
        say(f"consensus: {error}")
    except KeyboardInterrupt:
        say("interrupted: this turn is not part of the conversation")


def lines() -> Iterator[str]:
    """Return what is typed, or piped in, line by line."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin)
        return
    shown = sys.stdout.isatty()
    if shown:  # else Python's input would not use it
        with suppress(ImportError):
            import readline  # noqa: F401 - lets lines be edited and found again
    while True:
        try:
            if not shown:
                print(PROMPT, end="", file=sys.stderr, flush=True)
            yield input(PROMPT if shown else "").strip()
        except KeyboardInterrupt:
            say("")
        except EOFError:
            say("")
            return


def _where(current: Conversation) -> str:
    turns = sum(message.role == "user" for message in current.messages)
    return f"Going on after {turns} turns of {current.id}." if turns else "A new conversation."
