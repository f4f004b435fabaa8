"""`consensus moa --queries FILE`: a list of questions in one run, for a list of records."""

import json
from collections.abc import Sequence
from typing import Any

from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.deployments.commands.algorithms.layer_view import totals
from consensus_flows.deployments.last_word import LastWord
from consensus_flows.deployments.run import TurnOptions
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, checked_output, put, put_json, say, write_whole
from consensus_flows.flows.mixture_of_agents import mixture_of_agents
from consensus_flows.tasks.calls.providers import close_clients, warm_up
from consensus_flows.tasks.errors import QuorumError
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.reports.recorded import Recorded
from consensus_flows.tasks.watch import Watcher, watched_by


def run_list(
    queries: Sequence[str], config: MixtureOfAgentsConfig, recorded: Sequence[Recorded], out: TurnOptions
) -> Exit:
    """Run all `queries`, and print the answers in their order.

    Returns:
        ANSWER if each has an answer, BUDGET if the budget ended one of them, else NO_ANSWER.
    """
    out.refuse("a list of questions")
    output = checked_output(out.output)
    warm_up([*(member.name.provider for member in config.members()), *(name.provider for name in config.aggregators())])
    info = connect()
    quiet = out.json or out.raw

    def report(records: list[Record]) -> Exit:
        documents = [record.model_dump(mode="json") for record in records]
        try:
            if out.json:
                put_json(documents)
            else:
                for record in records:
                    heading = "" if out.raw else f"## {' '.join(record.prompt.split())}\n\n"
                    put(f"{heading}{record.answer or ''}\n")
        finally:
            if output is not None:
                write_whole(output, json.dumps(documents, indent=2, ensure_ascii=False) + "\n")
        if not quiet and records and records[0].flow_run_id:
            say(f"The run in the UI: {info.ui_url}/runs/flow-run/{records[0].flow_run_id}")
        if any(record.status == "budget" for record in records):
            return Exit.BUDGET
        return Exit.NO_ANSWER if any(record.answer is None for record in records) else Exit.ANSWER

    last = LastWord(info.api_url, "done", report)
    return last.run(_run(queries, config, recorded, [*([] if quiet else [_Done(len(queries))]), last]))


async def _run(
    queries: Sequence[str], config: MixtureOfAgentsConfig, recorded: Sequence[Recorded], watchers: Sequence[Watcher]
) -> list[Record]:
    with watched_by(*watchers):
        try:
            made = await mixture_of_agents(list(queries), config, reference=list(recorded))
            assert isinstance(made, list)
            return made
        except QuorumError as error:
            records: list[Any] | None = getattr(error, "records", None)
            if records is None:
                raise
            return [Record.model_validate(record) for record in records]
        finally:
            await close_clients()


class _Done:
    """Says of each query when it is done."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._count = 0

    async def told(self, event: str, value: Any) -> None:
        """Print the end of a query's run."""
        if event != "ended":
            return
        self._count += 1
        words = " ".join(value.prompt.split())
        told = value.error if value.answer is None else totals(value)
        say(
            f"  {'✗' if value.answer is None else '✓'} {self._count}/{self._total} "
            f"{words if len(words) <= 60 else f'{words[:59]}…'}: {told}"
        )
        for warning in dict.fromkeys(value.warnings):
            say(f"    ! {warning}")
