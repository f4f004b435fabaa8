"""`consensus schedule` and `consensus schedules`: batches at fixed times, by Prefect's deployments, schedules and automations."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import time
from inspect import signature
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from cyclopts import App, Group, Parameter
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import arun_deployment
from prefect.events import Event, Resource, get_events_client
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from consensus_flows.blocks.settings import Budget
from consensus_flows.blocks.spelling import did_you_mean
from consensus_flows.deployments.algorithm_commands import Flow, Given, choose
from consensus_flows.deployments.commands.algorithms.batch import BUDGET_OPTIONS, BatchOptions
from consensus_flows.deployments.commands.operations.up import POOL, running_worker, up
from consensus_flows.deployments.commands.settings.keys import saved as saved_keys
from consensus_flows.deployments.commands.settings.saved import offer
from consensus_flows.deployments.notifications import Kind, notification, notify_of
from consensus_flows.deployments.options import FILE, SENTENCE, PanelOptions, options_type
from consensus_flows.deployments.server import ServerInfo, connect
from consensus_flows.deployments.tables import clock, local_time, put_rows
from consensus_flows.deployments.terminal import Exit, Stop, explain, put, put_json, say
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.batch import batch as flow_of_batch
from consensus_flows.flows.batching import Batch, checked
from consensus_flows.flows.saved_algorithm import with_panels
from consensus_flows.tasks.addresses import place_of
from consensus_flows.tasks.batches.addresses import dated, day_of_run
from consensus_flows.tasks.batches.source import Selection, Source
from consensus_flows.tasks.calls.providers import built_in
from consensus_flows.tasks.plain_text import plural

TAG = "schedule"
"""What a deployment is known by that `consensus schedule` has made."""
DAYS = {
    "day": "*",
    "weekday": "1-5",
    **{
        name: str(number)
        for number, name in enumerate(("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"))
    },
}
FILES = {"input", "output", "records", "review"}
"""Parameters of the flow that are files or folders."""

app = App(name="schedules", help="The batches that are scheduled: list, pause, resume, remove or run them.")


@Parameter(name="*", group=Group("Schedule", sort_key=0))
@dataclass(kw_only=True)
class ScheduleOptions:
    """When it runs, and who is told what came of it."""

    at: Annotated[str | None, Parameter(metavar="TIME")] = None
    """Time of day, for example 02:00."""
    every: Annotated[str, Parameter(metavar="DAY")] = "day"
    """day, weekday, a day of the week such as monday, or a cron expression such as "0 */6 * * *"."""
    timezone: Annotated[str | None, Parameter(metavar="ZONE")] = None
    """Time zone of --at and of {date} in the output, for example Europe/Berlin; default: that of this machine."""
    notify: Kind | None = None
    """Send the outcome of each run, also of one that crashed or that no worker took. The address is asked for once."""
    notify_from_env: Annotated[str | None, Parameter(metavar="VARIABLE")] = None
    """Name of the environment variable that holds the address for --notify."""

    def when(self) -> CronSchedule:
        """Return the schedule that is meant.

        Raises:
            Stop: Naming the option that cannot be read.
        """
        import tzlocal

        if (day := DAYS.get(self.every.lower())) is None:
            if self.at is not None:
                raise Stop(
                    f"--every {self.every!r}: with --at, say day, weekday or a day of the week; a cron expression has its time"
                )
            cron = self.every
        elif self.at is None:
            raise Stop("--at is missing: the time of day, for example 02:00")
        else:
            try:
                moment = time.fromisoformat(self.at)
            except ValueError:
                raise Stop(f"--at {self.at!r}: write a time of day, for example 02:00") from None
            cron = f"{moment.minute} {moment.hour} * * {day}"
        try:
            return CronSchedule(cron=cron, timezone=self.timezone or tzlocal.get_localzone_name() or "UTC")
        except ValidationError as error:
            raise Stop(explain(error, {"cron": "--every", "timezone": "--timezone"})) from None


def command(flow: str | None) -> Callable[..., Exit]:
    """Make the command for one algorithm, with its options; or for a saved configuration of any."""

    def run(
        name: str,
        input: Annotated[str, SENTENCE],
        /,
        *,
        schedule: ScheduleOptions | None = None,
        batch: BatchOptions,
        flow: Flow = flow,
        given: Given | None = None,
    ) -> Exit:
        """Run a batch every night, or whenever --at and --every say.

        Input, configuration and keys are checked now. `consensus schedules` lists, pauses and removes schedules.

        Args:
            name: Name of the schedule, and of the saved configuration unless --name or -m say otherwise.
            input: File of prompts, folder of .md and .txt files, or address, as for `consensus batch`.
            schedule: When it runs, and who is told what came of it.
            batch: What is read and written.
            flow: The algorithm; default: that of the saved configuration.
            given: The settings.
        """
        options, given = schedule or ScheduleOptions(), {**(given or {})}
        when = options.when()
        if options.notify_from_env and options.notify is None:
            raise Stop("--notify-from-env: say with --notify what kind of address it is")
        try:
            budget = Budget.model_validate(given.pop("budget", {}))
        except ValidationError as error:
            raise Stop(explain(error, BUDGET_OPTIONS)) from None
        own = given.keys() & {"members", "layers", FILE}
        saved = batch.name or (None if own else name)
        one, config = choose(saved, given, flow)
        info = connect()
        parameters = _parameters(batch, input) | {
            "flow": one.name,
            # By its name, so that the schedule follows what is saved; with options over it, as it is now.
            "timezone": when.timezone,
            "config": saved if saved and not given else config.model_dump(mode="json", exclude_defaults=True),
            "budget": budget.model_dump(mode="json", exclude_none=True),
        }
        columns = {key: parameters[key] for key in ("prompt_column", "prompt_template", "id_column", "attach_column")}
        today = day_of_run(when.timezone)
        work = Batch(
            Source(parameters["input"], **columns, selection=Selection(batch.limit, batch.sample, batch.sample_seed)),
            dated(parameters["output"], today),
            one.name,
            whole := asyncio.run(with_panels(config)),
            skip_bad=batch.skip_bad,
            budget=budget,
            review=parameters["review"] and dated(parameters["review"], today),
            review_below=batch.review_below,
            probe=batch.probe,
            overwrite=batch.overwrite,
        )
        rows = asyncio.run(checked(work)).rows
        _check_worker(info, parameters, {model.provider for model in whole.all_models()})
        block = asyncio.run(notification(options.notify, options.notify_from_env, name)) if options.notify else None
        replaced, following = asyncio.run(_deploy(name, parameters, when, block, info.ui_url))
        say(
            f"{'replaced' if replaced else 'scheduled'} {name}: {plural(rows, 'row')}, {_in_words(when)}; next {following}"
        )
        if options.notify:
            say(f"The outcome of each run is sent to {options.notify}; a first message was sent there now.")
        say(f"To try it now: consensus schedules run {name}")
        return Exit.ANSWER

    run.__annotations__["given"] = options_type(algorithm(flow).config_class()) if flow else PanelOptions
    return run


def _parameters(options: BatchOptions, source: str) -> dict[str, Any]:
    """Return the parameters of the flow; relative paths are of this folder."""
    taken = signature(flow_of_batch).parameters
    given = vars(options) | options.parameters()
    parameters: dict[str, Any] = {key: value for key, value in given.items() if key in taken}
    parameters["input"] = source
    for key in FILES & parameters.keys():
        if parameters[key] is not None and place_of(parameters[key], key).local:
            path = parameters[key].partition("://")[2] or parameters[key]
            parameters[key] = str(Path(path).expanduser().absolute())
    return parameters


def _check_worker(info: ServerInfo, parameters: dict[str, Any], providers: set[str]) -> None:
    """See that a worker of this machine is there and has the files and the keys; workers of another server are not known here.

    Raises:
        Stop: If it has not.
    """
    if info.pid is None:
        return
    if running_worker() is None:
        up()
    worker = running_worker()
    assert worker is not None
    for key in sorted(FILES & parameters.keys()):
        path = parameters[key]
        if path is not None and "://" not in path and not Path(path).resolve().is_relative_to(worker.files):
            raise Stop(
                f"{key}: {path} is outside of {worker.files}, where the worker may read and write: run `consensus down`, and "
                "`consensus up` in a folder that holds it"
            )
    known = built_in()
    for name in providers - {name for name, _, _ in asyncio.run(saved_keys())}:
        keys = known[name].needed
        if keys and not set(keys) & set(worker.keys):
            raise Stop(
                f"the worker was started without {' or '.join(keys)}: save the key with `consensus keys set {name}"
                f"{'' if known[name].needs else f' --from-env {keys[0]}'}`, or run `consensus down` and `consensus up` where it is set"
            )


async def _deploy(
    name: str, parameters: dict[str, Any], when: CronSchedule, block: UUID | None, ui_url: str
) -> tuple[bool, str]:
    """Make the deployment; return whether it replaces one of the name, and when its next run is."""
    async with get_client() as client:
        before = await _of_name(client, name)
        try:
            await client.read_work_pool(POOL)
        except ObjectNotFound:
            raise Stop(f"the server has no work pool {POOL!r}: `consensus up` makes it, and starts a worker") from None
        made = await flow_of_batch.ato_deployment(
            name,
            schedules=[DeploymentScheduleCreate(schedule=when, active=True, slug=TAG)],
            parameters=parameters,
            description=f"{parameters['flow']} over {parameters['input']}, {_in_words(when)}",
            tags=["consensus", "many", TAG],
            work_pool_name=POOL,
            entrypoint_type=EntrypointType.MODULE_PATH,
            paused=False,
        )
        key = await made.aapply()
        await offer()
        await notify_of(client, name, key, block, ui_url)
        await client.request("POST", "/deployments/{id}/schedule", path_params={"id": key}, json={"min_runs": 3})
        await _announce(client, key)
        following = (await _runs(client))[1].get(str(key))
        return before is not None, local_time(following) if following else "-"


async def _announce(client: PrefectClient, deployment: UUID) -> None:
    """Send the event of each run that is scheduled now, which Prefect leaves out for runs that it makes of a schedule.

    The next event of a run that begins within five minutes follows this one, and Prefect's automations would wait for it for
    a quarter of an hour.
    """
    async with get_events_client() as events:
        for run in await client.read_flow_runs(
            deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment]}}),
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}}),
        ):
            assert run.state is not None
            resource = {
                "prefect.resource.id": f"prefect.flow-run.{run.id}",
                "prefect.resource.name": run.name,
                "prefect.state-name": run.state.name,
                "prefect.state-type": run.state.type.value,
            }
            await events.emit(Event(event="prefect.flow-run.Scheduled", resource=Resource(resource), id=run.state.id))


async def _of_name(client: PrefectClient, name: str) -> DeploymentResponse | None:
    """Return the schedule of this name.

    Raises:
        Stop: If it is another deployment's name.
    """
    try:
        found = await client.read_deployment_by_name(f"batch/{name}")
    except ObjectNotFound:
        return None
    if TAG not in found.tags:
        raise Stop(f"batch/{name} is a deployment that `consensus schedule` has not made: take another name")
    return found


async def _all(client: PrefectClient) -> list[DeploymentResponse]:
    return await client.read_deployments(deployment_filter=DeploymentFilter.model_validate({"tags": {"all_": [TAG]}}))


async def _there(client: PrefectClient, name: str) -> DeploymentResponse:
    """Return the schedule of this name.

    Raises:
        Stop: If there is none, or it is another deployment's name.
    """
    if (found := await _of_name(client, name)) is None:
        near = did_you_mean(name, (one.name for one in await _all(client)))
        raise Stop(f"no schedule is called {name!r}.{near} `consensus schedules` lists them")
    return found


async def _runs(client: PrefectClient) -> tuple[dict[str, str], dict[str, str]]:
    """Return how the last run of each deployment ended, and when its next one is."""
    last: dict[str, str] = {}
    following: dict[str, str] = {}
    filters = DeploymentFilter.model_validate({"tags": {"all_": [TAG]}})
    for run in await client.read_flow_runs(
        deployment_filter=filters,
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}}),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
    ):
        assert run.expected_start_time is not None
        following.setdefault(str(run.deployment_id), run.expected_start_time.isoformat())
    for run in await client.read_flow_runs(
        deployment_filter=filters,
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"not_any_": ["SCHEDULED", "PENDING"]}}}),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
    ):
        message = run.state.message if run.state else None
        last.setdefault(str(run.deployment_id), f"{run.state_name}: {message}" if message else str(run.state_name))
    return last, following


def _in_words(when: CronSchedule) -> str:
    """Say when it runs, as it was given."""
    minute, hour, *rest = when.cron.split()
    for name, number in DAYS.items():
        if rest == ["*", "*", number] and minute.isdecimal() and hour.isdecimal():
            return f"every {name} at {int(hour):02}:{int(minute):02} ({when.timezone})"
    return f"{when.cron} ({when.timezone})"


@app.default
def list_schedules(*, json: Annotated[bool, Parameter(negative="")] = False) -> Exit:
    """List the scheduled batches, with their next and their last run.

    In a pipe, one tab-separated line per schedule: name, when it runs, next run (UTC), last outcome.

    Args:
        json: Print JSON.
    """
    connect()

    async def read() -> list[dict[str, Any]]:
        async with get_client() as client:
            last, following = await _runs(client)
            return [
                {
                    "name": one.name,
                    "paused": one.paused,
                    "when": "; ".join(
                        _in_words(each.schedule) for each in one.schedules if isinstance(each.schedule, CronSchedule)
                    ),
                    "next": None if one.paused else following.get(str(one.id)),
                    "last": last.get(str(one.id)),
                    "input": one.parameters["input"],
                    "output": one.parameters["output"],
                    "flow": one.parameters["flow"],
                    "config": one.parameters["config"],
                }
                for one in await _all(client)
            ]

    found = asyncio.run(read())
    if json:
        put_json(found)
        return Exit.ANSWER
    put_rows(
        ["name", "when", "next", "last"],
        [
            [
                one["name"],
                one["when"],
                "paused" if one["paused"] else clock(one["next"]) if one["next"] else "-",
                one["last"] or "-",
            ]
            for one in found
        ],
        wide="last",
    )
    if not found:
        say("nothing is scheduled: `consensus schedule NAME INPUT --output answers-{date}.jsonl --at 02:00`")
    return Exit.ANSWER


def _change(name: str, action: Callable[[PrefectClient, DeploymentResponse], Any], said: str) -> Exit:
    connect()

    async def change() -> None:
        async with get_client() as client:
            await action(client, await _there(client, name))

    asyncio.run(change())
    say(f"{said} {name}")
    return Exit.ANSWER


@app.command
def pause(name: str) -> Exit:
    """Pause a schedule: it starts no runs until it is resumed.

    Args:
        name: Its name.
    """
    return _change(name, lambda client, one: client.pause_deployment(one.id), "paused")


@app.command
def resume(name: str) -> Exit:
    """Resume a schedule that was paused.

    Args:
        name: Its name.
    """
    return _change(name, lambda client, one: client.resume_deployment(one.id), "resumed")


@app.command
def remove(name: str) -> Exit:
    """Remove a schedule, and what notifies of it. Its output stays.

    Args:
        name: Its name.
    """

    async def delete(client: PrefectClient, one: DeploymentResponse) -> None:
        await notify_of(client, name, one.id)
        await client.delete_deployment(one.id)

    return _change(name, delete, "removed")


@app.command(name="run")
def run_now(name: str) -> Exit:
    """Run a scheduled batch once, now, on the worker.

    Args:
        name: Its name.
    """
    info = connect()
    asyncio.run(_started(name, info))
    return Exit.ANSWER


async def _started(name: str, info: ServerInfo) -> None:
    async with get_client() as client:
        await _there(client, name)
    run = await arun_deployment(f"batch/{name}", timeout=0, as_subflow=False)
    put(f"{info.ui_url}/runs/flow-run/{run.id}")
