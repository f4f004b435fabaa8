"""The pump: one question to many models at once, every answer back with its time. Nobody judges.

After the `pump` of parallellm-pump (github.com/lukerm/parallellm-pump). Unlike there, a failure is named and never
stands in for an answer, one failing model does not end the run, and every answer is recorded with its usage and cost.
"""

from collections.abc import Iterator, Sequence

from prefect import flow

from consensus_flows.blocks.pump import Pump, PumpConfig
from consensus_flows.flows.algorithms import takes
from consensus_flows.flows.run import FLOW, Attachments, ConfigOrName, begin, run_as_flow
from consensus_flows.tasks.asking import missed_quorum
from consensus_flows.tasks.batches.planning import Planned, member_calls
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.record import Iteration, Record, Response
from consensus_flows.tasks.reports.markdown import cell, prose
from consensus_flows.tasks.reports.report import Artifact, Report, agreement_note, answer_section, calls_table


async def run_pump(
    prompt: str,
    config: PumpConfig,
    call: Call | None = None,
    *,
    conversation: tuple[Message, ...] = (),
    name: str = "pump",
) -> Record:
    """Ask all members at once.

    Args:
        prompt: The question.
        config: Who is asked.
        call: Makes the calls; by default the `ask` task.
        conversation: Earlier turns.
        name: What the flow is called in the record.

    Returns:
        The record of the run, of one iteration. `answer` is the text of a panel's only member, else the answers of all
        who gave one, each under its member's name. Below the quorum there is none, and `error` says why.

    Raises:
        ConfigurationError: Before any call, if the prompt is empty or a model cannot be asked.
    """
    async with begin(name, prompt, config, call, conversation=conversation) as run, run.iteration() as iteration:
        record = run.record
        await run.ask(iteration, config.panel(), quorum=config.needed(), label=name)
        await run.measure(iteration, name)
        record.agreement, record.agreement_measure = iteration.agreement, iteration.agreement_measure
        record.error = missed_quorum(iteration.responses, config.needed())
        # Members that the budget kept from being asked have not failed.
        if record.error and not (iteration.cut_by_budget and iteration.answered()):
            record.status = "failed"
        else:
            alone = len(iteration.responses) == 1
            record.answer = (iteration.responses[0].text or "") if alone else answers_text(iteration.answered())
            record.best_iteration = 1
    return record


def heading(response: Response) -> str:
    """Return the line above a member's answer."""
    return f"## {' '.join(response.member.split())}"


def answers_text(answered: Sequence[Response]) -> str:
    """Return all answers in one text, each under its member's name, in the order given."""
    return "\n\n".join(f"{heading(response)}\n\n{response.text or ''}" for response in answered)


def report(_config: PumpConfig | None = None) -> Report:
    """Show the answers side by side."""
    return Report(_artifacts)


def _artifacts(_record: Record, iteration: Iteration) -> Iterator[Artifact]:
    yield Artifact("pump-answers", "All answers", page(iteration))
    yield Artifact("pump-calls", "All calls", calls_table(iteration))


def page(iteration: Iteration) -> str:
    """Show every answer, or why there is none."""
    responses = iteration.responses
    slowest = max((response.latency_s for response in responses), default=0.0)
    answered = f"{len(iteration.answered())} of {len(responses)} members answered in {iteration.duration_s:.1f} s"
    parts = ["# Answers", f"{answered}, the slowest in {slowest:.1f} s · {agreement_note(iteration)}"]
    for response in responses:
        if response.error:
            parts.append(f"## `{cell(response.member)}` failed\n\n{prose(response.error.message)}")
        else:
            parts.append(answer_section(response, "##"))
    return "\n\n".join(parts)


@flow(name="pump", **FLOW)
async def pump(
    prompt: str,
    config: ConfigOrName[PumpConfig] = None,
    conversation: list[Message] | None = None,
    attachments: Attachments = None,
) -> Record:
    """Ask many models at once and return every answer.

    Args:
        prompt: The question.
        config: Who is asked, or the name of a saved configuration (a Pump block). Empty: the one called default.
        conversation: Earlier turns of the conversation that this question continues.
        attachments: Images, PDFs and text files that the question is about: paths or URLs.
    """
    return await run_as_flow(run_pump, Pump, report, prompt, config, conversation=conversation, attachments=attachments)


def plan(config: PumpConfig) -> Iterator[Planned]:
    """Plan the calls of a run as long as every model answers."""
    yield from member_calls(config, config.panel(), (1, 1))


def waves(config: PumpConfig) -> tuple[int, int]:
    """Return how often a run waits for calls that depend on those before, at least and at most."""
    return takes(config, config.models())
