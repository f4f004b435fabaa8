"""prefect.yaml: every deployment can be loaded by a worker, and its parameters fit its flow."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from consensus_flows.tasks.errors import ConfigurationError
from tests.kits.consortium_kit import say
from tests.kits.deployment_kit import run_deployment

ROOT = Path(__file__).parent.parent.parent
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_entrypoint_loads_and_parameters_fit(deployment, monkeypatch):
    monkeypatch.chdir(ROOT)
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    assert isinstance(flow, Flow)
    # What a run from the UI would send: the deployment's parameters, and a prompt.
    given = {"prompt": "Why?", **deployment["parameters"]}
    known = set(parameter_schema(flow).properties)
    flow.validate_parameters({name: value for name, value in given.items() if name in known})
    assert set(deployment["parameters"]) <= known
    assert deployment["description"] and deployment["work_pool"]["name"] == "consensus"


def test_every_flow_has_a_deployment():
    from importlib import import_module

    deployed = {deployment["entrypoint"] for deployment in DEPLOYMENTS}
    flows = set()
    for file in sorted((ROOT / "flows").glob("*.py")):
        module = import_module(f"consensus_flows.flows.{file.stem}")
        flows |= {
            f"{module.__name__}.{name}"
            for name, value in vars(module).items()
            if isinstance(value, Flow) and value.fn.__module__ == module.__name__
        }
    assert flows <= deployed, f"without a deployment: {flows - deployed}"


def test_server_settings_are_those_of_prefect_toml():
    import tomllib

    from consensus_flows.deployments.server import server_environment

    toml = tomllib.loads((ROOT / "prefect.toml").read_text())
    batch = toml["server"]["services"]["task_run_recorder"]["batch_size"]
    assert server_environment()["PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE"] == str(batch)
    assert batch >= 100


async def test_a_schedule_makes_runs(prefect_server):
    """Prefect 3.8 cannot with SQLAlchemy 2.1: its scheduler fails every minute, and no schedule ever fires."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.schedules import Cron

    @flow
    def nightly() -> None: ...

    async with get_client() as client:
        made = await (await nightly.to_deployment("nightly", schedule=Cron("0 2 * * *"))).apply()
        await client.request("POST", "/deployments/{id}/schedule", path_params={"id": made}, json={"min_runs": 2})
        found = await client.request(
            "POST",
            "/flow_runs/filter",
            json={
                "deployments": {"id": {"any_": [str(made)]}},
                "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
            },
        )
    runs = found.json()
    assert len(runs) >= 2 and all(run["auto_scheduled"] for run in runs)


@pytest.mark.parametrize("name", ["batch", "prefer-prompts", "evaluate", "calibrate"])
async def test_a_deployment_runs_as_it_is_in_an_empty_folder(name, results, vendors, tmp_path, monkeypatch):
    monkeypatch.setenv("CONSENSUS_FILES", str(tmp_path))
    say(vendors, one="12")
    state = await run_deployment(next(one for one in DEPLOYMENTS if one["name"] == name))
    assert state.is_completed(), state.message
    assert vendors.count() >= 6


# What a run is given, and what its deployment sets.


@pytest.fixture
async def deployed(results, vendors, monkeypatch):
    """Runs the pump as a worker does: as a run of a deployment that has parameters of its own."""
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow_async

    from consensus_flows.blocks.pump import Pump, PumpConfig
    from consensus_flows.flows.pump import pump

    say(vendors, own="of the deployment", night="of the saved one", given="of the run", usual="of the default")
    await Pump(config=PumpConfig(members=["openai/night"])).asave("night", overwrite=True)

    async def run(own: dict[str, Any], **given: Any) -> Any:
        async with get_client() as client:
            flow_id = await client.create_flow(pump)
            deployment = await client.create_deployment(flow_id=flow_id, name="pump", parameters=own)
            made = await client.create_flow_run_from_deployment(deployment, parameters={"prompt": "What?", **given})
            try:
                return await run_flow_async(pump, flow_run=made, parameters=made.parameters, return_type="state")
            finally:
                await client.delete_deployment(deployment)

    yield run
    await Pump.adelete("night")


@pytest.fixture
async def saved_default(prefect_server):
    """The configuration that is meant where none is named."""
    from consensus_flows.blocks.pump import Pump, PumpConfig

    await Pump(config=PumpConfig(members=["openai/usual"])).asave("default", overwrite=True)
    yield
    await Pump.adelete("default")


OWN, GIVEN = {"members": ["openai/own"]}, {"members": ["openai/given"]}


@pytest.mark.parametrize(
    ("own", "given", "answer"),
    [
        ({"config": OWN}, {}, "of the deployment"),
        ({"config": OWN}, {"config": "night"}, "of the saved one"),
        ({"config": OWN}, {"config": GIVEN}, "of the run"),
        # As the form of the UI sends it, which fills in what is not set.
        ({"config": OWN}, {"config": GIVEN | {"quorum": None, "budget": {}}}, "of the run"),
        ({"config": OWN}, {"config": None}, "of the default"),
        ({"config": OWN}, {"config": ""}, "of the default"),  # as a form may leave it
        ({"config": "night"}, {}, "of the saved one"),
        ({"config": "night"}, {"config": GIVEN}, "of the run"),
        ({}, {"config": "night"}, "of the saved one"),
        ({}, {}, "of the default"),
    ],
)
async def test_what_a_run_is_given_comes_before_what_its_deployment_sets(deployed, saved_default, own, given, answer):
    state = await deployed(own, **given)
    assert state.is_completed(), state.message
    assert (await state.result()).answer == answer


@pytest.mark.parametrize(
    ("own", "given", "said"),
    [
        ({"config": OWN}, {"config": "nowhere"}, "no configuration is saved as 'nowhere'"),
        ({"config": "nowhere"}, {}, "no configuration is saved as 'nowhere'"),
        ({"config": OWN}, {"config": None}, "no configuration is saved as 'default'"),
        ({}, {}, "no configuration is saved as 'default'"),
    ],
)
async def test_what_is_not_saved_is_refused_before_any_call(deployed, vendors, own, given, said):
    state = await deployed(own, **given)
    assert state.is_failed() and said in state.message
    assert vendors.count() == 0


async def test_every_flow_takes_the_name_of_a_saved_configuration(monkeypatch, prefect_server, vendors, tmp_path):
    monkeypatch.chdir(ROOT)
    values = {"prompt": "Why?", "input": str(tmp_path), "output": str(tmp_path / "answers.jsonl"), "config": "nowhere"}
    values |= {"judges": {"members": ["openai/judge"]}, "label": "answer"}
    checked = []
    for deployment in DEPLOYMENTS:
        flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
        config = (known := parameter_schema(flow).properties).get("config", {})
        if not any(kind.get("type") == "string" for kind in config.get("anyOf", [])):
            continue
        given = flow.validate_parameters({name: value for name, value in values.items() if name in known})
        ended = await flow.fn(**given)  # Prefect raises the data of a failed state
        assert isinstance(ended.data, ConfigurationError)
        assert "no configuration is saved as 'nowhere'" in ended.message
        checked.append(deployment["name"])
    assert len(checked) >= 8, checked
    assert vendors.count() == 0


async def test_a_run_of_a_batch_names_another_flow_and_what_is_saved_for_it(results, vendors, tmp_path, monkeypatch):
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow_async

    from consensus_flows.blocks.pump import Pump, PumpConfig
    from consensus_flows.flows.batch import batch

    monkeypatch.setenv("CONSENSUS_FILES", str(tmp_path))
    say(vendors, night="of the saved one")
    await Pump(config=PumpConfig(members=["openai/night"])).asave("night", overwrite=True)
    (tmp_path / "in.txt").write_text("What?\n")
    own = {"input": "in.txt", "output": "out.jsonl", "flow": "vote", "config": OWN}
    try:
        async with get_client() as client:
            flow_id = await client.create_flow(batch)
            deployment = await client.create_deployment(flow_id=flow_id, name="batch", parameters=own)
            made = await client.create_flow_run_from_deployment(
                deployment, parameters={"flow": "pump", "config": "night"}
            )
            state = await run_flow_async(batch, flow_run=made, parameters=made.parameters, return_type="state")
            await client.delete_deployment(deployment)
        assert state.is_completed(), state.message
        assert (await state.result()).algorithm == "pump"
        assert "of the saved one" in (tmp_path / "out.jsonl").read_text()
    finally:
        await Pump.adelete("night")


@pytest.mark.parametrize(
    ("entrypoint", "config"),
    [
        ("consensus_learning", {"members": ["a/b"], "aggregator": "a/c", "aggregator_context": "Be terse."}),
        ("consensus_learning", {"members": ["a/b"], "aggregator": "a/c", "aggregator_prompt": "Merge them."}),
        (
            "consensus_learning",
            {"members": ["a/b"], "aggregator": "a/c", "aggregator_prompt": [{"role": "user", "content": "Merge."}]},
        ),
        (
            "mixture_of_agents",
            {"layers": ["a/b,a/c:2", ["a/b"], {"members": ["a/b"], "quorum": 1}], "aggregator": "a/c"},
        ),
    ],
)
async def test_what_a_description_promises_is_taken_by_prefect(entrypoint, config, monkeypatch, prefect_server):
    """The server checks parameters against the schema of the flow, before the flow's own check."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    monkeypatch.chdir(ROOT)
    flow = load_flow_from_entrypoint(f"consensus_flows.flows.{entrypoint}.{entrypoint}", use_placeholder_flow=False)
    schema = parameter_schema(flow).model_dump_for_openapi()
    async with get_client() as client:
        made = await client.create_deployment(
            flow_id=await client.create_flow(flow),
            name="form",
            parameter_openapi_schema=schema,
            enforce_parameter_schema=True,
        )
        try:
            run = await client.create_flow_run_from_deployment(made, parameters={"prompt": "Why?", "config": config})
            assert flow.validate_parameters(run.parameters)["config"] is not None
            with pytest.raises(PrefectHTTPStatusError):
                await client.create_flow_run_from_deployment(
                    made, parameters={"prompt": "Why?", "config": config | {"members": 3, "layers": 3}}
                )
        finally:
            await client.delete_deployment(made)


async def test_a_run_cannot_bring_a_command_an_environment_or_a_folder_to_the_worker_of_up(prefect_server):
    """Each would run anything on this machine for whoever may create a run."""
    from prefect.workers.process import ProcessJobConfiguration

    from consensus_flows.deployments.commands.operations.up import HEARTBEAT, TEMPLATE

    template = json.loads(TEMPLATE.read_text())
    assert set(template["variables"]["properties"]) <= set(ProcessJobConfiguration.model_fields)
    hostile = {"command": "touch pwned", "env": {"LD_PRELOAD": "/tmp/evil.so"}, "working_dir": "/tmp"}
    configuration = await ProcessJobConfiguration.from_template_and_values(template, hostile)
    assert (configuration.command, configuration.working_dir, configuration.env) == (None, None, {})
    # So the worker's own environment holds what other types of pool take from prefect.yaml.
    assert DEPLOYMENTS[0]["work_pool"]["job_variables"]["env"] == HEARTBEAT
