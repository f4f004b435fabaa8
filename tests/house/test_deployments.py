"""prefect.yaml: every deployment can be loaded by a worker, and its parameters fit its flow."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

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
        module = import_module(f"flows.{file.stem}")
        flows |= {
            f"flows/{file.name}:{name}"
            for name, value in vars(module).items()
            if isinstance(value, Flow) and value.fn.__module__ == module.__name__
        }
    assert flows <= deployed, f"without a deployment: {flows - deployed}"


def test_server_settings_are_those_of_prefect_toml():
    import tomllib

    from deployments.server import server_environment

    toml = tomllib.loads((ROOT / "prefect.toml").read_text())
    batch = toml["server"]["services"]["task_run_recorder"]["batch_size"]
    assert server_environment()["PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE"] == str(batch)
    assert batch >= 100


async def test_a_schedule_makes_runs(prefect_server):
    """With SQLAlchemy 2.1 Prefect 3.8's server cannot: its scheduler fails every minute, and no schedule ever fires."""
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
