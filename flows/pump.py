"""The pump: one question to many models at once, every answer back with its time. Nobody judges.

After the `pump` of parallellm-pump (github.com/lukerm/parallellm-pump). Unlike there, a failure is named and never
stands in for an answer, one failing model does not end the run, and every answer is recorded with its usage and cost.
"""

import time

from prefect import flow

from consensus_flows.blocks.pump import Pump, PumpConfig
from consensus_flows.tasks.calls.call import Call, Caller
from consensus_flows.tasks.calls.money.budget import spending
from consensus_flows.tasks.calls.providers import check_models
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.ending import end_by_budget
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.measuring import measure
from consensus_flows.tasks.panel import check_quorum
from consensus_flows.tasks.prompting.turns import Turns, apart
from consensus_flows.tasks.record import Iteration, Record
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.reports.pump_report import PumpReport, answers_text
from consensus_flows.tasks.reports.report import run_name, start_record, told_of_end
from consensus_flows.tasks.rounds import ask_members
from consensus_flows.tasks.saved_config import chosen
from consensus_flows.tasks.watch import tell


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
    if not prompt.strip():
        raise ConfigurationError("prompt is empty: write a question")
    members = config.panel()
    await check_models(config.models(), config.embedding())
    record = start_record(name, prompt)
    system, turns = apart(config.system, conversation)
    iteration = Iteration(number=1)
    record.iterations.append(iteration)
    call = call or Caller(config.fresh, config.service_tier)
    started = time.monotonic()
    await tell("started", record)
    with spending(config.budget):
        iteration.responses = await ask_members(
            members,
            [Turns(prompt, system, turns).messages] * len(members),
            config,
            call,
            quorum=config.needed(),
            label=name,
        )
        await measure(iteration, record, config, call, name)
    iteration.duration_s = round(time.monotonic() - started, 4)
    _conclude(record, iteration, config)
    await tell("iterated", iteration)
    record.add_up()
    record.duration_s = round(time.monotonic() - started, 4)
    await tell("ended", record)
    return record


def _conclude(record: Record, iteration: Iteration, config: PumpConfig) -> None:
    """Decide whether the answers suffice, and say what was not as it should be."""
    answered = [response for response in iteration.responses if response.answered]
    errors = {response.member: response.error.kind for response in iteration.responses if response.error}
    record.agreement, record.agreement_measure = iteration.agreement, iteration.agreement_measure
    record.degraded = bool(errors)
    record.warnings += [f"{member}: {kind}" for member, kind in errors.items()]
    for response in iteration.responses:
        record.warnings += [warning for warning in response.warnings if warning not in record.warnings]
    try:
        check_quorum(iteration.responses, config.needed())
    except QuorumError as error:
        record.error = error.message
        if not ("budget" in errors.values() and answered):  # members that were never asked have not failed
            record.status = "failed"
            return
    record.answer = (answered[0].text or "") if len(iteration.responses) == 1 else answers_text(answered)
    record.best_iteration = 1
    end_by_budget(record)


@flow(name="pump", flow_run_name=run_name, persist_result=True, result_serializer="json", validate_parameters=True)
async def pump(
    prompt: str,
    config: PumpConfig | None = None,
    saved: str | None = None,
    conversation: list[Message] | None = None,
) -> Record:
    """Ask many models at once and return every answer.

    Args:
        prompt: The question.
        config: Who is asked. Empty: a saved configuration.
        saved: Name of a saved configuration (a Pump block) to run in place of config,
            whatever config the deployment sets. Both empty: the one called default.
        conversation: Earlier turns of a conversation that this question goes on.
    """
    config = await chosen(Pump, PumpConfig, config, saved)
    async with record_runs(PumpReport(), conversation=conversation):
        record = await run_pump(prompt, config, conversation=tuple(conversation or ()))
    return told_of_end(record)
