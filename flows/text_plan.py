"""What an evaluation of free text asks, and of whom: found out, checked and estimated before any call."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from consensus_flows.blocks.check_judges import ADVERSARIAL, FreeTextConfig
from consensus_flows.blocks.member import Member, ModelName, named
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.blocks.panel import PanelConfig, RunConfig
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.batching import check_files
from consensus_flows.flows.evaluate import RESULT
from consensus_flows.flows.saved_algorithm import settings_of, with_panels
from consensus_flows.tasks.attachments import attach
from consensus_flows.tasks.batches.columns import ID, PREFERRED
from consensus_flows.tasks.batches.estimate import Estimate, estimate
from consensus_flows.tasks.batches.frames import output_rows
from consensus_flows.tasks.batches.planning import SCHEMA_CHARACTERS, Planned, judge_calls, prompt_length
from consensus_flows.tasks.batches.results import ANSWERS
from consensus_flows.tasks.batches.rows import Row, files_of
from consensus_flows.tasks.batches.source import Selection, Source
from consensus_flows.tasks.calls.budget import most_tokens
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.free_text import (
    FreeTextEvaluation,
    FreeTextRow,
    comparable,
)
from consensus_flows.tasks.labelled_pairs import shipped_pairs
from consensus_flows.tasks.record import Attachment


@dataclass(frozen=True)
class TextPlan:
    """What is judged, and who is asked for it before.

    Attributes:
        judges: Who judges.
        recorded: The answers, where they are recorded.
        source: The questions, where a panel is asked.
        algorithm: That of the panel.
        config: Its settings.
        attachments: Files that every question is about, beside its own; the judges are not sent them.
    """

    judges: FreeTextConfig
    recorded: Sequence[FreeTextRow] = ()
    source: Source | None = None
    algorithm: str = ""
    config: RunConfig | None = None
    attachments: tuple[Attachment, ...] = ()

    def questions(self) -> dict[str, str]:
        """Return the questions by id."""
        if self.source is None:
            return {row.id: row.question for row in self.recorded}
        return {row.id: row.prompt for row in self.source.rows() if isinstance(row, Row)}


async def planned_text(
    address: str,
    judges: FreeTextConfig,
    flow: str | None = None,
    config: dict[str, Any] | str | None = None,
    *,
    limit: int | None = None,
    sample: int | None = None,
    sample_seed: int = 0,
    attachments: Sequence[str | Attachment] = (),
    **columns: str | None,
) -> TextPlan:
    """Find out what is judged, and who is asked for it.

    Args:
        address: The prompts; without flow and config the output of a batch.
        judges: Who judges.
        flow: The panel's algorithm.
        config: Its settings, or the name of a saved configuration.
        limit: Take only the first rows.
        sample: Take only this many rows, drawn at random.
        sample_seed: Draws other rows.
        attachments: Files that every question is about, beside its own.
        columns: Those of a `Source`.

    Raises:
        ConfigurationError: Before any call, naming what cannot be used.
    """
    if flow is None and config is None:
        rows = recorded_text(address, columns.get("prompt_column"))[:limit]
        refuse_own_judges(judges, [member.partition("#")[0] for row in rows for member in row.members])
        return TextPlan(judges, rows)
    judges = await with_panels(judges)
    one, settings = await settings_of(flow, config)
    settings = await with_panels(settings)
    refuse_own_judges(judges, settings.models())
    return TextPlan(
        judges.model_copy(update={"system": judges.system or settings.system}),
        source=Source(address, selection=Selection(limit, sample, sample_seed), **columns),
        algorithm=one,
        config=settings,
        attachments=await asyncio.to_thread(attach, attachments),
    )


async def text_estimates(plan: TextPlan) -> list[tuple[str, Estimate]]:
    """Estimate what it takes to ask the panel, and to judge. No model is called.

    Returns:
        One for the `panel`, where it is asked, one for the `adversarial` pairs, and one for the `judges`.
    """
    made, questions = [], plan.questions()
    size = sum(map(most_tokens, questions.values()))
    pairs = [(row, text) for row in plan.recorded for text in row.members.values() if text != row.panel]
    judged, read, count = sum(most_tokens(row.question + row.panel + text) for row, text in pairs), 0, len(pairs)
    if plan.config is not None and plan.source is not None:
        planned, files = algorithm(plan.algorithm).plan(plan.config), plan.source.inspect().files
        check_files(files)
        files = files.and_also(files_of(*plan.attachments), times=len(questions))
        made.append(("panel", await estimate(plan.config, planned, len(questions), size, files)))
        members = len(first_members(plan.config))
        judged, read, count = size * members, 2, len(questions) * members
    adversarial = [pair for pair in shipped_pairs() if pair.kind == ADVERSARIAL]
    shown = sum(most_tokens(pair.question + pair.a + pair.b) for pair in adversarial)
    for name, number, length, answers in (
        ("adversarial", len(adversarial), shown, 0),
        ("judges", count, judged, read),
    ):
        calls = list(_judge_plan(plan.judges, answers))
        made.append((name, await estimate(plan.judges, calls, number, length)))
    return made


def _judge_plan(config: FreeTextConfig, answers: int) -> Iterator[Planned]:
    """Plan the calls for one pair, in both orders.

    Args:
        config: Who judges.
        answers: Answers that one call reads and that are not counted with the question.
    """
    characters = prompt_length("compare_system", "compare") + len(config.system or "") + SCHEMA_CHARACTERS
    for judge in config.panel():
        read = (2 * answers, 2 * answers)
        yield judge_calls(judge.name, "judge", (2, 2), read, characters, settings=config.settings_of(judge))
    for strong in named(config.strong_judge):
        settings = config.settings_of(Member(strong, 1))
        yield judge_calls(strong, "strong judge", (0, 2), (0, 2 * answers), characters, settings=settings)


def first_members(config: RunConfig) -> list[ModelName]:
    """Return the members that answer before they have seen any other answer."""
    if isinstance(config, MixtureOfAgentsConfig):
        return [member.name for member in config.proposer_layers()[0].panel()]
    return [member.name for member in config.panel()] if isinstance(config, PanelConfig) else config.models()


def read_text_baseline(path: Path, plan: TextPlan) -> FreeTextEvaluation:
    """Read an earlier evaluation, and make sure that one of this plan can be compared with it.

    Raises:
        ConfigurationError: If it cannot.
    """
    try:
        before = FreeTextEvaluation.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}", field="baseline") from None
    except ValidationError:
        raise ConfigurationError(
            f"{path} is not an {RESULT} written by --report of an evaluation with --judge", field="baseline"
        ) from None
    comparable(before, [str(judge.name) for judge in plan.judges.panel()], plan.judges.strong_judge, plan.questions())
    return before


def recorded_text(address: str, prompt_column: str | None = None) -> list[FreeTextRow]:
    """Read what a panel and its members have answered out of the output of a batch.

    Args:
        address: The output.
        prompt_column: The column of the question; None for `prompt`, else `question`.

    Raises:
        ConfigurationError: If it is no such output, or a row has no question.
    """
    rows = []
    for number, row in enumerate(output_rows(address), 1):
        name = str(row.get(ID) or number)
        question = next((row[one] for one in ((prompt_column,) if prompt_column else PREFERRED) if row.get(one)), None)
        if question is None:
            wanted = repr(prompt_column) if prompt_column else " or ".join(map(repr, PREFERRED))
            raise ConfigurationError(f"row {name} has no {wanted}, the column of the question", field="prompt_column")
        answers = row.get(ANSWERS)
        if not isinstance(answers, dict):
            raise ConfigurationError(
                f"row {name} has no {ANSWERS!r}, an object by member, as the output of a batch without --wide has",
                field="input",
            )
        said = {member: one for member, one in answers.items() if isinstance(one, dict) and one.get("text")}
        rows.append(
            FreeTextRow(
                name,
                str(question),
                row.get("answer") or "",
                {member: one["text"] for member, one in said.items()},
                # A row says what it cost in its batch, where what came from the cache cost nothing.
                None if row.get("cached_calls") else row.get("cost_usd"),
                {member: one.get("cost_usd") for member, one in said.items()},
            )
        )
    return rows


def refuse_own_judges(config: FreeTextConfig, models: Sequence[object]) -> None:
    """Refuse a judge that has a part in the panel."""
    known = set(map(str, models))
    if own := [str(judge) for judge in config.models() if str(judge) in known]:
        raise ConfigurationError(
            f"{', '.join(own)} is in the panel, and would judge its own answers: name another model", field="judge"
        )
