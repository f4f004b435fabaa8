"""A batch in shards: deployment runs of the batch flow, each with every n-th row, on as many workers as there are.

There are more parts than runs at once where there are many rows. A run that has done its part is handed the next one, which it
runs as a flow run within itself: nothing has to be scheduled, started and inspected again. So a slow machine does fewer of them,
and those of one that is gone go to the others. The budget is one: a part reserves its share of what is left when it is begun, and
what it has not spent is there for the parts that follow.

The shards share a folder beside the output. What a shard has done is there when it is done; a shard that dies is run
again alone, finds its journal if it can see it, and its calls in the result store. The flow that has started the shards
may die too: started again it finds those that are done, goes on waiting for those that run, and starts the others.
"""

import asyncio
import hashlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Container, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import date
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect import tags
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger, get_run_logger
from prefect.runtime import deployment, flow_run
from prefect.states import Crashed

from consensus_flows.blocks.settings import Budget
from consensus_flows.flows.batching import SHOWN, Batch
from consensus_flows.tasks.addresses import Place, place_of, whole
from consensus_flows.tasks.batches.addresses import day_of_run
from consensus_flows.tasks.batches.journal import Finished
from consensus_flows.tasks.batches.output import merged, write_output
from consensus_flows.tasks.batches.review_file import Reviewer
from consensus_flows.tasks.batches.rows import Inventory, input_changed
from consensus_flows.tasks.batches.summary import BatchSummary, describe
from consensus_flows.tasks.batches.totals import Totals
from consensus_flows.tasks.batches.unfinished import unfinished_shards
from consensus_flows.tasks.calibration import figures
from consensus_flows.tasks.errors import ConfigurationError, OutputError
from consensus_flows.tasks.record import TakenOut
from consensus_flows.tasks.watch import emit

DEPLOYMENT = "batch/batch"
"""What is run when the flow that starts the shards was not started by a deployment itself."""
PARTS_A_SHARD = 8
"""Parts for each run at once, at most: the last ones end together but for one of them."""
ROWS_A_PART = 250
"""Rows of a part, at least, where there are more parts than runs at once: a run takes seconds to start."""
NOTHING = Budget(max_tokens=1)
"""The share of a part for which nothing is left: no call fits into it, so that its run ends at once and says so."""
TRIES = 3
"""How often a shard is started at most."""
PAUSE_S = 1.0
"""Seconds between two looks at the shards."""
ASKING_S = 0.2
"""Seconds between two looks of a shard that has done its part for the next one."""
HANDED_S = 30.0
"""Seconds that it waits for one: whoever hands them on may have died."""
BEAT_S = 5.0
"""Seconds between two signs of life of a shard."""
SILENT_S = 60.0
"""Seconds without one after which a shard that is said to run is taken for dead."""
STARTING_S = 600.0
"""Seconds that infrastructure may take from the claim of a run to its start: pulling an image takes its time."""
TAG = "consensus-batch-"
"""How the tag begins that the runs of one batch have in common."""
inspected: ContextVar[Inventory | None] = ContextVar("inspected", default=None)
"""What is in the input, in a part that another one's run goes on with: it has been looked at, as have the models."""

WAITING_S = 15.0
"""Seconds after which it is said that a shard still waits for a worker, and that a worker may be missing."""
AGAIN_S = 120.0
"""Seconds until that is said again."""


@dataclass
class _Shard:
    number: int
    address: str
    run: UUID | None = None
    tries: int = 0
    beat: bytes = b""
    heard: float = 0.0
    waits: str = ""
    """While no worker has taken the run: the name of its state."""
    share: Budget | None = None
    """What it may spend in all its runs; None before it has started."""
    spent: tuple[int, int, float] | None = None
    """The calls, tokens and US dollars that its last run has left as spent."""
    done: dict[str, Any] | None = None


async def run_shards(
    batch: Batch, shards: int, inventory: Inventory, address: str = "", today: date | None = None
) -> BatchSummary:
    """Run a batch as deployment runs, and merge what they leave.

    Args:
        batch: What is to be done.
        shards: How many runs there are.
        inventory: What is in the input.
        address: The output as it was given, with its `{date}`.
        today: The day of the run.

    Raises:
        ConfigurationError: Before anything is started, naming what cannot be used.
        OutputError: If a shard has failed time and again, or the output cannot be written.
    """
    started = time.monotonic()
    parts = number_of_parts(inventory.rows, shards, batch.budget)
    # The numbers of rows count bad ones too: with others among them every shard has other rows.
    bad = [inventory.bad_rows, *(row.number for row in inventory.bad)]
    plan = json.dumps([batch.plan(), inventory.sha256, bad, list(inventory.columns), parts], sort_keys=True)
    ending = f".shards-{_short(plan)}"
    if (found := await asyncio.to_thread(unfinished_shards, address, ending, today or day_of_run())) is not None:
        get_run_logger().warning("%s", found.describe(batch.output))
        await emit("notice", found.describe(batch.output))
        batch = replace(batch, output=found.output)
    folder = _folder(f"{batch.output}{ending}")
    work = _Shards(batch, shards, parts, folder, inventory)
    await emit("batch_started", work.progress)
    try:
        await work.finish()
    except ObjectNotFound:
        raise ConfigurationError(
            f"shards: there is no deployment {DEPLOYMENT}: make the deployments with `consensus up` or `prefect deploy --all`"
        ) from None
    summary = await asyncio.to_thread(_merge, batch, work.shards, inventory)
    summary.duration_s = round(time.monotonic() - started, 4)
    summary.calls_per_s = round(summary.calls / max(summary.duration_s, 1e-9), 2)
    await emit("batch_written", summary)
    if summary.status == "finished":
        # Whoever is killed before finds in it what the shards have done, and ends what was left.
        await asyncio.to_thread(_clear, folder)
    # What comes now may wait for the Prefect server.
    await emit("batch_ended", summary)
    return summary


def number_of_parts(rows: int, shards: int, budget: Budget) -> int:
    """Return into how many parts the rows of a batch are split.

    Args:
        rows: How many there are.
        shards: Runs at once.
        budget: What the batch may spend.

    Raises:
        ConfigurationError: If the budget does not suffice for one of each.
    """
    limits: dict[str, int | None] = {name: getattr(budget, name) for name in ("max_calls", "max_tokens")}
    for name, limit in limits.items():
        if limit is not None and limit < shards:
            raise ConfigurationError(
                f"budget.{name}: {limit} cannot be shared among {shards} shards: give at least {shards}"
            )
    if budget.max_seconds is not None:  # it is that of each run, and those that came later would have their own
        return shards
    most = min(shards * PARTS_A_SHARD, *(limit for limit in limits.values() if limit is not None), rows // ROWS_A_PART)
    return max(shards, most)


def share(budget: Budget, taken: Iterable[tuple[int, int, float]], of: int) -> tuple[int, int, float]:
    """Return the calls, tokens and US dollars that one of so many parts may take of what is left; 0 where there is no limit.

    Args:
        budget: That of the batch.
        taken: What each part has spent, or has reserved.
        of: Parts that wait for a share.
    """
    calls, tokens, usd = (sum(one) for one in zip((0, 0, 0.0), *taken, strict=True))
    return (
        max(0, -(-(budget.max_calls - calls) // of)) if budget.max_calls is not None else 0,
        max(0, -(-(budget.max_tokens - tokens) // of)) if budget.max_tokens is not None else 0,
        max(0.0, (budget.max_cost_usd - usd) / of) if budget.max_cost_usd is not None else 0.0,
    )


class _Shards:
    """The shards of one batch, and what is known of their runs."""

    def __init__(self, batch: Batch, at_once: int, parts: int, folder: Place, inventory: Inventory) -> None:
        self._batch = batch
        self._inventory = inventory
        self._at_once = at_once
        # By their place: another batch of the same rows, with another output, has runs of its own.
        self._tag = f"{TAG}{_short(folder.address)}"
        self._folder = folder
        self.progress = batch.progress(wanted=inventory.rows)
        # The shards may stand elsewhere.
        self._records = None if batch.records is None else whole(batch.records, "records")
        self._pool: str | None = None
        self._notice = time.monotonic() + WAITING_S
        self.shards = [
            _Shard(number, f"{folder.address}/{number:04d}-of-{parts:04d}.jsonl") for number in range(1, parts + 1)
        ]
        self._waiting = deque[_Shard]()
        """Those that are to be started."""
        self._ending = set[UUID]()
        """Runs that were told that no part is left."""

    async def finish(self) -> None:
        """Start what is not done, and wait until everything is."""
        async with get_client() as client:
            for shard in self.shards:
                shard.share, shard.run = self._noted(shard)
            handed = {shard.run for shard in self.shards}
            for shard in self.shards:
                if (before := self._done(shard)) is not None:
                    shard.spent = _spent(before)
                shard.done = self._done(shard, finished=True)
                if shard.done is not None:
                    await self._ended(shard.done)
                    continue
                # One that has ended for now needs no run, though the one that did it may go on with another part.
                shard.run = await self._running(client, shard, handed) if before is None else None
                if shard.run is None:
                    if shard.share is not None:
                        await self._end_within(client, shard, None)
                    self._waiting.append(shard)
            while any(shard.done is None for shard in self.shards):
                await self._start_more()
                await asyncio.sleep(PAUSE_S)
                for shard in self.shards:
                    if shard.done is None and shard.run is not None:
                        try:
                            await self._look(client, shard)
                        except HTTPError as error:  # the shards go on without the server for a while, and so do we
                            get_run_logger().warning("Shard %s cannot be looked at: %r", shard.number, error)
                await self._report_waiting()
            await self._wait_for_ends(client)

    async def _wait_for_ends(self, client: PrefectClient) -> None:
        """Let the runs end that were told so: nobody should find one at work on a batch that is done."""
        deadline = time.monotonic() + SILENT_S
        while self._ending and time.monotonic() < deadline:
            with suppress(HTTPError):
                going = {"id": {"any_": list(self._ending)}, "state": {"type": {"not_any_": list(TERMINAL_STATES)}}}
                found = await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(going))
                self._ending = {run.id for run in found}
            if self._ending:
                await asyncio.sleep(ASKING_S)

    async def _start_more(self) -> None:
        """Start the parts for which there is room."""
        going = sum(shard.done is None and shard.run is not None for shard in self.shards)
        while self._waiting and going < self._at_once:
            shard = self._next()
            shard.run = await self._start(shard)
            going += 1

    def _next(self) -> _Shard:
        if self._waiting[0].share is None or self._waiting[0].spent is not None:
            self._reserve(self._waiting[0])
        return self._waiting.popleft()

    def _hand_on(self, ended: _Shard, run: FlowRun) -> None:
        """Give the next part to the run of one that has ended, or tell it that there is none.

        A run that is retried takes none: Prefect would give it the results of the parts that it had before.
        """
        said: dict[str, Any] = {}
        if run.run_count <= 1 and self._waiting:
            shard = self._next()
            shard.run = run.id
            self._begin(shard)
            said = {"tags": self._tags(shard), "parameters": self._own_parameters(shard)}
            get_run_logger().info("Shard %s of %s is within flow run %s", shard.number, len(self.shards), run.name)
        else:
            self._ending.add(run.id)
        _write(place_of(f"{ended.address}.next", "output"), said)

    def _reserve(self, shard: _Shard) -> None:
        """Add to what a part has spent its share of what is left."""
        spent = shard.spent or (0, 0, 0.0)
        calls, tokens, usd = (sum(one) for one in zip(spent, self._share(shard), strict=True))
        budget = self._batch.budget
        limits = (budget.max_calls, budget.max_tokens, budget.max_cost_usd)
        if any(limit is not None and one <= 0 for limit, one in zip(limits, (calls, tokens, usd), strict=True)):
            shard.share = NOTHING
            return
        shard.share = Budget(
            max_calls=None if budget.max_calls is None else int(calls),
            max_tokens=None if budget.max_tokens is None else int(tokens),
            max_cost_usd=None if budget.max_cost_usd is None else usd,
            max_seconds=budget.max_seconds,
        )

    def _share(self, shard: _Shard) -> tuple[int, int, float]:
        """Return what a part may have beside what it has spent."""
        taken = [
            one.spent
            if one.spent is not None and (one.done is not None or one in self._waiting or one is shard)
            else _amounts(one.share)
            for one in self.shards
        ]
        return share(self._batch.budget, taken, max(1, len(self._waiting)))

    def _may_go_on(self, shard: _Shard, before: tuple[int, int, float] | None) -> bool:
        """Tell whether a part whose share is used up may have more, and has come further by what it had."""
        budget = self._batch.budget
        limits = (budget.max_calls, budget.max_tokens, budget.max_cost_usd)
        more = self._share(shard)
        return (
            budget.max_seconds is None
            and shard.spent != (before or (0, 0, 0.0))
            and all(limit is None or one > 0 for limit, one in zip(limits, more, strict=True))
        )

    def _noted(self, shard: _Shard) -> tuple[Budget | None, UUID | None]:
        """Return what an earlier run of this batch has reserved for a part, which it may have spent, and to which run it was handed."""
        try:
            noted: dict[str, Any] = json.loads(_read(place_of(f"{shard.address}.share", "output")))
        except ValueError:
            return None, None
        run = noted.pop("run", None)
        return Budget.model_validate(noted), run and UUID(run)

    async def _ended(self, done: dict[str, Any]) -> None:
        self.progress.add_shard(done)
        await emit("shard", done)

    async def _report_waiting(self) -> None:
        """Say now and then which shards no worker has taken: without a worker this would go on in silence for ever."""
        waiting = [shard for shard in self.shards if shard.done is None and shard.waits]
        if not waiting:
            self._notice = time.monotonic() + WAITING_S
        elif time.monotonic() >= self._notice:
            self._notice = time.monotonic() + AGAIN_S
            text = (
                f"{len(waiting)} of {len(self.shards)} shards wait for a worker with a free slot ({waiting[0].waits}): "
                f"prefect worker start --pool {self._pool}"
            )
            get_run_logger().warning("%s", text)
            await emit("notice", text)

    async def _running(self, client: PrefectClient, shard: _Shard, handed: Container[UUID | None]) -> UUID | None:
        """Find the run at work on the shard that somebody has started before, or has handed it to, and that has not ended.

        Args:
            client: Of the server.
            shard: The shard.
            handed: Runs that were handed other parts, and are done with the one for which they were started.
        """
        shard.heard = time.monotonic()
        if shard.run is not None:
            with suppress(ObjectNotFound):
                state = (await client.read_flow_run(shard.run)).state
                return None if state is None or state.is_final() else shard.run
        going = [run.id for run in await self._going(client, shard) if run.deployment_id is not None]
        return next((run for run in going if run not in handed), None)

    async def _going(self, client: PrefectClient, shard: _Shard) -> list[FlowRun]:
        """Return the runs of a shard that have not ended."""
        going = {"tags": {"all_": self._tags(shard)}, "state": {"type": {"not_any_": list(TERMINAL_STATES)}}}
        return await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(going))

    async def _end_within(self, client: PrefectClient, shard: _Shard, why: str | None) -> None:
        """Let the server know that a shard's run has ended with the one around it, which was killed."""
        for run in await self._going(client, shard):
            if run.deployment_id is None:
                await client.set_flow_run_state(run.id, Crashed(message=why), force=True)

    def _tags(self, shard: _Shard) -> list[str]:
        return [self._tag, f"shard-{shard.number}"]

    def _own_parameters(self, shard: _Shard) -> dict[str, Any]:
        """Return the parameters in which the runs of the parts differ."""
        assert shard.share is not None
        return {"output": shard.address, "shard": shard.number, "budget": shard.share.model_dump(mode="json")}

    def _begin(self, shard: _Shard) -> None:
        """Note that a part is begun, and what it may spend."""
        # What an earlier run has left would be taken for the end of this one if it were killed.
        _remove(place_of(f"{shard.address}.done", "output"))
        _remove(place_of(f"{shard.address}.next", "output"))
        assert shard.share is not None
        run = {"run": shard.run and str(shard.run)}
        _write(place_of(f"{shard.address}.share", "output"), shard.share.model_dump(mode="json") | run)
        shard.tries += 1
        shard.heard = time.monotonic()

    async def _start(self, shard: _Shard) -> UUID:
        batch, of = self._batch, len(self.shards)
        shard.run = None
        self._begin(shard)
        prompt_column, prompt_template, id_column = batch.prompts
        run: FlowRun = await arun_deployment(
            deployment.id or DEPLOYMENT,
            parameters={
                "input": batch.source.whole_address,
                "flow": batch.algorithm,
                "config": batch.config.model_dump(mode="json", exclude_defaults=True),
                "prompt_column": prompt_column,
                "prompt_template": prompt_template,
                "id_column": id_column,
                "attach_column": batch.source.attach_column,
                "attachments": list(batch.attached_from) or None,
                "concurrency": batch.concurrency,
                "skip_bad": True,
                "records": self._records,
                "reference_column": batch.reference_column,
                "wide": False,  # whoever merges the rows writes and judges them
                "abstain_below": None,
                "review": None,
                "review_below": None,
                "limit": batch.source.selection.limit,
                "sample": batch.source.selection.sample,
                "sample_seed": batch.source.selection.seed,
                "shards": of,
                "probe": False,  # this run has looked
                "overwrite": batch.overwrite,
                "strict": batch.strict,
                "vendor_batch": False,
                "by": None,
                "within": None,
                "wait": True,
                "task_runs": batch.task_runs,
                "timezone": None,  # the output has its day
                **self._own_parameters(shard),
            },
            timeout=0,
            tags=self._tags(shard),
        )
        get_run_logger().info("Shard %s of %s is flow run %s (try %s)", shard.number, of, run.name, shard.tries)
        return run.id

    async def _look(self, client: PrefectClient, shard: _Shard) -> None:
        """See whether a shard is done, goes on, or has to be started again."""
        assert shard.run is not None
        shard.waits = ""
        run: FlowRun | None = None
        try:
            run = await client.read_flow_run(shard.run)
            state = run.state
            if state is not None and state.is_scheduled():
                shard.waits, self._pool = state.name or "Scheduled", run.work_pool_name
        except ObjectNotFound:
            state = Crashed(message="somebody has deleted the run")
        shard.done = self._done(shard)
        if shard.done is not None:
            before, shard.spent = shard.spent, _spent(shard.done)
            if shard.done["status"] == "budget" and self._may_go_on(shard, before):
                shard.done, shard.run, shard.tries = None, None, 0
                self._waiting.append(shard)
            else:
                await self._ended(shard.done)
            if run is not None and (state is None or not state.is_final()):
                self._hand_on(shard, run)
            return
        if state is None:
            return
        if not state.is_final():
            if not self._dead(shard, state):
                return
            get_run_logger().warning("Shard %s gives no sign of life", shard.number)
            state = Crashed(message="no sign of life")
            await client.set_flow_run_state(shard.run, state, force=True)
        await self._end_within(client, shard, state.message)
        if shard.tries >= TRIES:
            raise OutputError(
                f"shard {shard.number} of {len(self.shards)} has ended without a result {shard.tries} times, the last time "
                f"with: {state.message}. What is done is kept in {self._folder.address}: the same command goes on from there"
            )
        why = f": {state.message.rstrip('.')}" if state.message else ""
        await emit(
            "notice",
            f"shard {shard.number} of {len(self.shards)} has ended without a result{why}; it is started again",
        )
        shard.run = await self._start(shard)

    def _dead(self, shard: _Shard, state: State[Any]) -> bool:
        """Tell whether a shard that is said to begin or to run does so no more; one that waits for a worker may wait."""
        beat = _read(place_of(f"{shard.address}.alive", "output"))
        if beat != shard.beat or state.is_scheduled():
            shard.beat, shard.heard = beat, time.monotonic()
        silent = time.monotonic() - shard.heard
        return silent > (SILENT_S if state.is_running() else STARTING_S)

    def _done(self, shard: _Shard, *, finished: bool = False) -> dict[str, Any] | None:
        """Return the summary that a shard has left; with `finished` only if nothing of it is left to do."""
        return _summary_left(shard.address, self._inventory if finished else None)


def _summary_left(address: str, of: Inventory | None = None) -> dict[str, Any] | None:
    """Return the summary that a part has left; with an inventory only if nothing of that is left to do."""
    try:
        found: dict[str, Any] = json.loads(_read(place_of(f"{address}.done", "output")))
    except ValueError:
        return None
    return None if of is not None and (found["status"] != "finished" or not _of_same_input(found, of)) else found


def _spent(done: Mapping[str, Any]) -> tuple[int, int, float]:
    calls, tokens, usd = done.get("spent") or (0, 0, 0.0)
    return calls, tokens, usd


def _amounts(budget: Budget | None) -> tuple[int, int, float]:
    return (
        (0, 0, 0.0) if budget is None else (budget.max_calls or 0, budget.max_tokens or 0, budget.max_cost_usd or 0.0)
    )


def _of_same_input(done: dict[str, Any], inventory: Inventory) -> bool:
    """Tell whether a shard has read what the run has that started it, and not what took its place meanwhile."""
    return bool(done.get("input_sha256", inventory.sha256) == inventory.sha256 and done["bad"] == inventory.bad_rows)


def _merge(batch: Batch, shards: list[_Shard], inventory: Inventory) -> BatchSummary:
    summary = BatchSummary(
        flow_run_id=flow_run.id,
        algorithm=batch.algorithm,
        input=batch.source.address,
        output=batch.output,
        review_file=batch.review,
        calibration=figures(batch.config),
        gives_probability=batch.config.gives_probability(),
        bad=inventory.bad_rows,
        bad_rows=[describe(bad) for bad in inventory.bad[:SHOWN]],
        resumed=sum((shard.done or {}).get("resumed", 0) for shard in shards),
    )
    out = (TakenOut.model_validate(one) for shard in shards for one in (shard.done or {}).get("taken_out", ()))
    summary.taken_out = list({one.model: one for one in out}.values())
    totals = Totals()
    ended = [shard.done for shard in shards if shard.done is not None and shard.done["status"] != "finished"]
    if ended:
        worst = next((done for done in ended if done["status"] == "stopped"), ended[0])
        summary.status, summary.error = worst["status"], worst["error"]
    if summary.status != "stopped" and not all(_of_same_input(shard.done or {}, inventory) for shard in shards):
        summary.status, summary.error = "stopped", input_changed(batch.source.address)

    def counted(reviewer: Reviewer) -> Iterator[Finished]:
        for one in merged([shard.address for shard in shards], totals):
            shown = reviewer.reviewed(one)
            summary.add(shown.result)
            yield shown

    try:
        with batch.reviewer() as reviewer:
            write_output(batch.output, counted(reviewer), inventory, batch.source.id_column, batch.members())
            reviewer.write(summary.rows)
    except OSError as error:
        raise OutputError(
            f"output: {batch.output} cannot be written: {error.strerror or error}. The shards are done and kept: start again "
            "with the same arguments when that is mended"
        ) from None
    summary.add_bill(totals)
    return summary


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _folder(address: str) -> Place:
    place = place_of(address, "output")
    if place.local:  # the shards may stand elsewhere
        place = place._replace(address=place.path)
    try:
        place.fs.makedirs(place.path, exist_ok=True)
    except Exception as error:  # a store's client has errors of its own
        raise ConfigurationError(
            f"output: {address} cannot be made: {getattr(error, 'strerror', None) or error}"
        ) from None
    return place


def _clear(folder: Place) -> None:
    try:
        folder.fs.rm(folder.path, recursive=True)
    except Exception as error:  # the answers are where they should be; a store's client has errors of its own
        get_logger("consensus").warning("%s cannot be deleted, and is needed no more: %r", folder.address, error)


def _write(place: Place, what: dict[str, Any]) -> None:
    place.fs.pipe_file(place.path, json.dumps(what).encode())


def _remove(place: Place) -> None:
    with suppress(FileNotFoundError):
        place.fs.rm_file(place.path)


def _read(place: Place) -> bytes:
    try:
        return bytes(place.fs.cat_file(place.path))
    except OSError:
        return b""


@asynccontextmanager
async def alive(output: str | None) -> AsyncIterator[None]:
    """Give signs of life while a shard is at work, for the run that has started it; for others nothing happens."""
    if output is None:
        yield
        return
    place = place_of(f"{output}.alive", "output")

    async def beat() -> None:
        for count in range(1_000_000_000):
            with suppress(Exception):  # a store's client has errors of its own; silence would be taken for death
                await asyncio.to_thread(place.fs.pipe_file, place.path, f"{flow_run.id} {count}".encode())
            await asyncio.sleep(BEAT_S)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


def done_before(output: str, inventory: Inventory) -> BatchSummary | None:
    """Return the summary of a part that is done, where its run is retried because it has died within a later one."""
    done = _summary_left(output, inventory) if flow_run.run_count > 1 else None
    return None if done is None else BatchSummary.model_validate(done)


async def run_next_parts(flow: Callable[..., Coroutine[Any, Any, Any]], output: str, inventory: Inventory) -> None:
    """Go on with the parts that the run which has started this one hands on, each as a flow run within this one.

    Args:
        flow: That of a batch.
        output: That of the part that this run has done.
        inventory: What is in the input.

    Raises:
        ConsensusError: If one has ended without a word: this run would be waited for in vain.
    """
    if flow_run.run_count > 1 or not any(tag.startswith(TAG) for tag in flow_run.tags):
        return  # nobody hands on parts to such a run
    inspected.set(inventory)
    while part := await _next_part(output):
        output = part["parameters"]["output"]
        with tags(*part["tags"]):
            state = await flow(**flow_run.parameters | part["parameters"], return_state=True)
        if _summary_left(output) is None:
            await state.aresult()


async def _next_part(output: str) -> dict[str, Any]:
    """Wait for the part that comes after one, which is empty if there is none."""
    place, deadline = place_of(f"{output}.next", "output"), time.monotonic() + HANDED_S
    async with alive(output):
        while time.monotonic() < deadline:
            with suppress(ValueError):  # not there, or not all of it
                part: dict[str, Any] = json.loads(await asyncio.to_thread(_read, place))
                _remove(place)
                return part
            await asyncio.sleep(ASKING_S)
    return {}


def leave_summary(
    output: str, summary: BatchSummary, inventory: Inventory, spent: tuple[int, int, float] = (0, 0, 0.0)
) -> None:
    """Say beside the file of a shard how it has ended, of which input it is a part, and what it has spent of its budget.

    Raises:
        OutputError: If that cannot be written.
    """
    place = place_of(f"{output}.done", "output")
    done = summary.model_dump(mode="json") | {"input_sha256": inventory.sha256, "spent": spent}
    try:
        place.fs.pipe_file(place.path, json.dumps(done).encode())
    except Exception as error:  # a store's client has errors of its own
        raise OutputError(
            f"output: {place.address} cannot be written: {getattr(error, 'strerror', None) or error}. The shard's rows are kept"
        ) from None
