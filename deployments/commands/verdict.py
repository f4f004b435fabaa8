"""`consensus verdict`: a vote among named choices, with an exit code for each; for CI jobs and scripts."""

from typing import Annotated, Any

from cyclopts import Parameter

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.deployments.algorithm_commands import Given, Name, ask, choose
from consensus_flows.deployments.commands.algorithms.questions import Prompt, QuestionOptions
from consensus_flows.deployments.options import OUTPUT, options_type
from consensus_flows.deployments.run import TurnOptions
from consensus_flows.deployments.terminal import Exit, Stop, say
from consensus_flows.tasks.prompts import fill
from consensus_flows.tasks.record import Record

SECOND_CHOICE = 10
"""Exit code of the second choice; the others follow. The codes below are those of every command."""


def verdict(
    prompt: Prompt = None,
    *,
    choices: Annotated[str, Parameter(group=OUTPUT, metavar="A,B")],
    source: QuestionOptions | None = None,
    name: Name = None,
    given: Given | None = None,
    out: TurnOptions | None = None,
) -> int:
    """Let a panel vote among choices; the exit code says which one won.

    0 is the first choice, 10 the second, 11 the third, and so on. 1 is no verdict: a tie, or too few members that answered.

    Args:
        prompt: Prompt; - reads it from standard input.
        choices: What can be chosen, separated by commas; the members are told.
        source: Where else it is read.
        name: Name of a saved vote; options override it.
        given: The settings.
        out: What is printed and written.
    """
    try:
        labels = parse_extraction(f"label:{choices}").labels
    except ValueError as error:
        raise Stop(f"--choices: {str(error).replace('label:', '')}") from None
    if "extract" in (given or {}):
        raise Stop("--extract: the answers of a verdict are read as its --choices")
    source = source or QuestionOptions()
    text = source.question(prompt)
    one, config = choose(name, {**(given or {}), "extract": f"label:{choices}"}, "vote")
    records: list[Record] = []

    def keep(record: Record) -> dict[str, Any]:
        records.append(record)
        return record.model_dump(mode="json")

    question = fill("verdict", question=text, choices=", ".join(labels))
    code = ask(one, question, config, out or TurnOptions(), shape=keep, attachments=source.attachments())
    if code is not Exit.ANSWER:
        return code
    record = records[0]
    votes = sum(len(option.members) for option in record.tally)
    alone = record.grade is not None and record.grade.answered_by is not None
    if record.status == "finished" and votes < (1 if alone else config.needed()):
        say(f"consensus: no verdict: {votes} of {len(config.panel())} members chose, and {config.needed()} are needed")
        return Exit.NO_ANSWER
    if record.tie:
        say(f"consensus: no verdict: a tie between {' and '.join(option.answer for option in record.tally[:2])}")
        return Exit.NO_ANSWER
    place = [label.casefold() for label in labels].index((record.answer or "").casefold())
    return SECOND_CHOICE + place - 1 if place else Exit.ANSWER


verdict.__annotations__["given"] = options_type(VoteConfig)
