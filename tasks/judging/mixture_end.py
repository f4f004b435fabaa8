"""What a mixture of agents comes to: which answer is returned, and what was not as it should be."""

from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.tasks.ending import end_by_budget
from consensus_flows.tasks.record import Iteration, Record


def conclude(record: Record, config: MixtureOfAgentsConfig) -> None:
    """Fill in the answer, the sums and the warnings of a run that is over."""
    last = next((one for one in reversed(record.iterations) if one.synthesis), None)
    if last is not None and last.synthesis is not None:
        record.answer = last.synthesis.text
        record.best_iteration = last.number
    layers = [one for one in record.iterations if one.responses]
    if layers:
        record.agreement, record.agreement_measure = layers[-1].agreement, layers[-1].agreement_measure
    for one in record.iterations:
        _remark(record, one, str(config.aggregators()[0]))
    end_by_budget(record)
    record.add_up()
    # Nobody was called for what was recorded earlier.
    record.calls -= sum(call.recorded for call in record.calls_made())


def _remark(record: Record, iteration: Iteration, aggregator: str) -> None:
    where = f"layer {iteration.number}"
    made_by = iteration.synthesis.arbiter if iteration.synthesis else None
    if iteration.judgements and iteration.judgements[-1].answered and made_by != aggregator:
        record.warnings.append(f"{where}: {aggregator} could not aggregate; {made_by} did")
        record.degraded = True
    if not all(response.answered for response in iteration.responses):
        record.degraded = True
    for call in (*iteration.responses, *iteration.judgements):
        if call.error is not None:
            record.warnings.append(f"{where}: {call.member}: {call.error.kind}")
        record.warnings += [warning for warning in call.warnings if warning not in record.warnings]
