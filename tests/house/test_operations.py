"""What is written for operators fits the installed Prefect: images, compose file, values, automations, deployments."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import Settings
from prefect.settings.legacy import _get_settings_fields

from consensus_flows.flows.algorithms import algorithm
from consensus_flows.tasks.reports.verdict import Outcome
from tests.kits import processes

ROOT = Path(__file__).parent.parent.parent
FILES = ROOT / "deployments"
DOCKERFILE = FILES / "docker" / "Dockerfile"
CONFIDENTIAL_SPACE = FILES / "confidential-space"
COMPOSE = FILES / "docker" / "compose.yaml"
VALUES = sorted((FILES / "kubernetes").glob("*.yaml"))
AUTOMATIONS = sorted((FILES / "automations").glob("*.yaml"))
YAML = [ROOT / "prefect.yaml", COMPOSE, *VALUES, *AUTOMATIONS]
NO_SETTINGS = {
    "PREFECT_SERVER_ENCRYPTION_KEY": "prefect/server/utilities/encryption.py",
}
"""Read from the environment by Prefect itself, without being one of its settings; and where."""


def program(name: str) -> str:
    path = Path(sys.executable).with_name(name)
    assert path.exists(), f"{name} is not installed: it is in the extra `dev`"
    return str(path)


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_dockerfiles_are_linted():
    run(program("hadolint"), "--failure-threshold", "style", DOCKERFILE, CONFIDENTIAL_SPACE / "Dockerfile")


def test_scripts_are_linted():
    run(program("shellcheck"), *CONFIDENTIAL_SPACE.glob("*.sh"))


def test_the_image_of_confidential_space_lets_nobody_change_it():
    text = (CONFIDENTIAL_SPACE / "Dockerfile").read_text(encoding="utf-8")
    policy = dict(re.findall(r'"tee\.launch_policy\.(\w+)"="(.*)"', text))
    assert policy["allow_cmd_override"] == policy["allow_capabilities"] == policy["allow_cgroups"] == "false"
    assert policy["allow_env_override"] == policy["allow_mount_destinations"] == ""
    assert policy["log_redirect"] == "debugonly"


def test_the_panels_of_confidential_space_can_be_asked():
    panels = sorted((CONFIDENTIAL_SPACE / "panels").glob("*/*.json"))
    assert panels
    for panel in panels:
        config = algorithm(panel.parent.name).config_class().model_validate_json(panel.read_text(encoding="utf-8"))
        keys = {f"{model.provider.upper()}_API_KEY" for model in config.models()}
        assert all(f'"{key}"' in (CONFIDENTIAL_SPACE / "start.py").read_text() for key in keys), keys


def test_yaml_is_linted():
    rules = "{extends: default, rules: {line-length: {max: 200}, document-start: disable, comments: {min-spaces-from-content: 1}}}"
    run(program("yamllint"), "--strict", "-d", rules, *YAML)


def test_the_compose_file_fits_the_specification():
    run(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)


def copied() -> list[str]:
    lines = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [
        name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1] if not name.startswith("--")
    ]


def test_what_the_image_copies_is_there_and_let_in():
    """The context lets in what is named, and nothing else: no key, no environment."""
    let_in = [
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    assert sorted(copied()) == sorted(let_in)
    assert not [name for name in let_in if not (ROOT / name).exists()]
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    # The folder from which the packages come is the folder that a worker loads flows from.
    packages = {"blocks", "tasks", "flows", "deployments"}
    assert packages <= set(copied())


def test_the_image_is_safe():
    text = DOCKERFILE.read_text(encoding="utf-8")
    users = re.findall(r"^USER (.+)$", text, re.MULTILINE)
    assert users == ["1001"], "the last word is that of a user without rights, by number as Kubernetes asks"
    assert text.count("--require-hashes") == 2
    for line in re.findall(r"pip install [^\\\n]+", text):
        assert "--require-hashes" in line or "--no-index" in line, line
    assert not re.search(r"(?i)(api_key|password|secret|token|auth_string)\s*=", text)
    # Workers run `prefect flow-run execute` in it: the entry point hands a command on.
    assert 'ENTRYPOINT ["tini", "-g", "--"]' in text


def test_the_image_has_the_versions_that_are_tested():
    def versions(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9._-]+)==([^ ;]+)", (ROOT / name).read_text(), re.MULTILINE))

    image, tested = versions("requirements-image.lock"), versions("requirements.lock")
    different = {
        name: (image[name], tested[name]) for name in image.keys() & tested.keys() if image[name] != tested[name]
    }
    assert not different
    assert {"prefect", "prefect-redis", "asyncpg", "openai", "anthropic", "google-genai", "hatchling"} <= set(image)
    assert not {"pytest", "mypy", "ruff"} & set(image)
    locks = [ROOT / name for name in ("requirements-image.lock", "requirements.lock")]
    assert all("--hash=sha256:" in lock.read_text() and "://" not in lock.read_text() for lock in locks)


def named(value: Any) -> set[str]:
    """Names of Prefect's settings anywhere in a document: as keys, as values, in a list of variables."""
    if isinstance(value, dict):
        return {name for pair in value.items() for part in pair for name in named(part)}
    if isinstance(value, list):
        return {name for part in value for name in named(part)}
    return set(re.findall(r"\bPREFECT_[A-Z0-9_]+", value)) if isinstance(value, str) else set()


def settings() -> set[str]:
    from prefect_redis.client import RedisMessagingSettings

    redis = {f"PREFECT_REDIS_MESSAGING_{field.upper()}" for field in RedisMessagingSettings.model_fields}
    return set(_get_settings_fields(Settings)) | redis | set(NO_SETTINGS)


@pytest.mark.parametrize("path", [*YAML, DOCKERFILE, ROOT / "docs" / "operations.md"], ids=lambda path: path.name)
def test_every_setting_of_prefect_that_is_named_is_one(path):
    text = path.read_text(encoding="utf-8")
    found = named(read(path)) if path.suffix == ".yaml" else named(text)
    assert found <= settings(), f"no settings of this Prefect: {sorted(found - settings())}"


def environments() -> dict[str, dict[str, str]]:
    """What each process is given, with something in place of what has to be filled in."""
    found = {f"compose {name}": one.get("environment", {}) for name, one in read(COMPOSE)["services"].items()}
    chart = read(FILES / "kubernetes" / "server.yaml")["global"]["prefect"]["env"]
    found["chart"] = {one["name"]: one["value"] for one in chart if "value" in one}
    found["deployment"] = read(ROOT / "prefect.yaml")["deployments"][0]["work_pool"]["job_variables"]["env"]
    return {
        name: {key: re.sub(r"\$\{\w+:-(.*?)\}|\$\{\w+:\?.*?\}", r"\1", str(value)) for key, value in given.items()}
        for name, given in found.items()
        if any(key.startswith("PREFECT_") for key in given)
    }


@pytest.mark.parametrize("name", environments())
def test_prefect_takes_the_values_of_its_settings(name, tmp_path):
    """A length of time that is written wrong keeps a server from starting."""
    given = environments()[name]
    code = "from prefect.settings import get_current_settings as s; s().server.services.db_vacuum.enabled_vacuum_types"
    environment = {"PATH": os.environ["PATH"], "PREFECT_HOME": str(tmp_path), "HOME": str(tmp_path), **given}
    done = processes.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_what_is_no_setting_is_read_where_it_is_said():
    import prefect

    for name, file in NO_SETTINGS.items():
        assert name in (Path(prefect.__file__).parent.parent / file).read_text(encoding="utf-8")


def test_servers_of_several_processes_share_all_they_must():
    """Each left out would be kept in the memory of one process, without a word."""
    shared = {
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_SERVER_DOCKET_URL": "redis://:${REDIS_PASSWORD:?set it in .env}@redis:6379/1",
        "PREFECT_REDIS_MESSAGING_URL": "redis://:${REDIS_PASSWORD:?set it in .env}@redis:6379/0",
    }
    services = read(COMPOSE)["services"]
    for name in ("server", "services"):
        assert shared.items() <= services[name]["environment"].items()
    from importlib import import_module

    for module in {value for value in shared.values() if "://" not in value}:
        import_module(module)
    assert "--no-services" in services["server"]["command"]
    assert services["services"]["command"] == ["prefect", "server", "services", "start"]
    chart = read(FILES / "kubernetes" / "server.yaml")["backgroundServices"]
    assert chart["runAsSeparateDeployment"] and chart["messaging"]["docket"]["existingSecret"]


def test_the_batches_of_the_server_are_those_of_prefect_toml():
    import tomllib

    from consensus_flows.deployments.server import _flat

    wanted = dict(_flat("PREFECT", tomllib.loads((ROOT / "prefect.toml").read_text())))
    wanted = {name: value.lower() for name, value in wanted.items()}
    assert wanted.items() <= read(COMPOSE)["services"]["server"]["environment"].items()
    chart = read(FILES / "kubernetes" / "server.yaml")["global"]["prefect"]["env"]
    assert wanted.items() <= {one["name"]: one.get("value") for one in chart}.items()


def test_compose_keeps_no_secret_and_leaves_nothing_open():
    text = COMPOSE.read_text(encoding="utf-8")
    example = (COMPOSE.parent / "env.example").read_text(encoding="utf-8")
    for name in set(re.findall(r"\$\{([A-Z_]+):\?", text)):
        assert re.search(rf"^{name}=$", example, re.MULTILINE), f"{name} has a value in env.example, or is not there"
    services = read(COMPOSE)["services"]
    assert {name for name, one in services.items() if "ports" in one} == {"server"}
    assert all(port.startswith("127.0.0.1:") for port in services["server"]["ports"])
    endless = {name for name, one in services.items() if one.get("restart") != "no"}
    assert all("healthcheck" in services[name] for name in endless)
    ours = [one for one in services.values() if one["image"].startswith("consensus-flows:")]
    assert len(ours) == 5 and all(one["cap_drop"] == ["ALL"] for one in ours)
    assert services["worker"]["deploy"]["replicas"] == 2
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version and {one["image"] for one in ours} == {f"consensus-flows:{version[1]}"}


def test_the_api_asks_for_a_password_and_is_closed_to_web_pages():
    services = read(COMPOSE)["services"]
    for name in ("server", "services", "migrate"):
        given = services[name]["environment"]
        assert given["PREFECT_SERVER_API_AUTH_STRING"].startswith("${PREFECT_API_AUTH_STRING:?")
        assert given["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
        assert "*" not in given["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"]
    for name in ("deploy", "worker"):
        assert services[name]["environment"]["PREFECT_API_AUTH_STRING"].startswith("${PREFECT_API_AUTH_STRING:?")
    assert any("REDIS_PASSWORD:?" in one for one in services["redis"]["command"])
    chart = read(FILES / "kubernetes" / "server.yaml")
    given = {one["name"]: one.get("value") for one in chart["global"]["prefect"]["env"]}
    assert given["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    assert "*" not in given["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"]
    worker = read(FILES / "kubernetes" / "worker.yaml")["worker"]["selfHostedServerApiConfig"]
    assert all(one["enabled"] and one["existingSecret"] for one in (chart["server"]["basicAuth"], worker["basicAuth"]))


def commands() -> list[list[str]]:
    found = []
    for one in read(COMPOSE)["services"].values():
        command = one.get("command", [])
        if command[:1] == ["prefect"]:
            found.append(command)
        elif command[:1] == ["sh"]:
            found += [line.split() for line in command[-1].splitlines() if line]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_of_the_compose_file_is_one(command):
    """Parsed by the program itself, which is not run: a wrong name or option is an error there too."""
    from prefect.cli._app import _app as prefect_app

    from consensus_flows.deployments.cli import app as ours

    name, *arguments = command
    program = {"prefect": prefect_app, "consensus": ours}[name]
    if name == "prefect":
        import prefect.cli  # noqa: F401 - it adds the commands

        arguments = [one for one in arguments if one != "--no-prompt"]
    program.parse_args(arguments, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("path", AUTOMATIONS, ids=lambda path: path.name)
def test_automations_can_be_created(path):
    text = path.read_text(encoding="utf-8").replace("BLOCK_ID", "0e6c1f4e-7a37-4b43-9f6c-1e5d0f6b0a11")
    made = AutomationCore.model_validate(yaml.safe_load(text))
    assert made.enabled and made.actions and made.description


def test_runs_are_given_up_only_after_three_heartbeats():
    crashed = read(FILES / "automations" / "crashed.yaml")["trigger"]
    for deployment in read(ROOT / "prefect.yaml")["deployments"]:
        environment = deployment["work_pool"]["job_variables"]["env"]
        assert crashed["within"] >= 3 * int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
        # Only runs with this rhythm are looked at.
        assert crashed["match_related"]["prefect.resource.id"].removeprefix("prefect.tag.") in deployment["tags"]
    final = {*get_args(Outcome), "Cancelled", "Crashed"}
    assert {f"prefect.flow-run.{name}" for name in final} < set(crashed["expect"])


def test_events_that_automations_wait_for_are_emitted():
    code = (ROOT / "tasks" / "reports" / "report.py").read_text(encoding="utf-8")
    for path in AUTOMATIONS:
        for event in read(path)["trigger"]["expect"]:
            assert event.startswith("prefect.") or f'"{event}"' in code


def test_the_text_of_a_notification_is_json_whatever_the_names_are():
    """As the server renders it, with a name that would break out of a string."""
    from prefect.server.events.schemas.events import ReceivedEvent
    from prefect.server.utilities.user_templates import render_user_template_sync, validate_user_template

    (action,) = read(FILES / "automations" / "low-confidence.yaml")["actions"]
    validate_user_template(action["payload"])
    event = ReceivedEvent(
        event="consensus.run.below-threshold",
        resource={"prefect.resource.id": "consensus.run.1", "prefect.resource.name": 'a "quoted" name'},
        payload={"confidence": None, "threshold": 0.8},
        id="0e6c1f4e-7a37-4b43-9f6c-1e5d0f6b0a11",
        occurred="2026-01-31T08:00:00Z",
    )
    told = json.loads(render_user_template_sync(action["payload"], {"event": event}))["text"]
    assert told.startswith('a "quoted" name ended below its threshold: confidence None, wanted 0.8')


def test_every_deployment_has_a_limit_and_two_tags():
    for deployment in read(ROOT / "prefect.yaml")["deployments"]:
        limit = deployment["concurrency_limit"]
        assert (limit if isinstance(limit, int) else limit["limit"]) >= 1
        assert deployment["tags"][0] == "consensus" and deployment["tags"][1] in {"answer", "many", "models"}


def test_schedules_are_asleep_until_they_are_woken():
    for deployment in read(ROOT / "prefect.yaml")["deployments"]:
        assert not any(schedule.get("active", True) for schedule in deployment["schedules"])


@pytest.mark.parametrize(
    ("status", "path", "said"),
    [(401, "/api/csrf-token", "PREFECT_API_AUTH_STRING"), (500, "/api/block_documents/filter", "ENCRYPTION_KEY")],
)
def test_a_server_that_refuses_is_one_sentence(status, path, said, capsys):
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    from consensus_flows.deployments.terminal import leave

    request = httpx.Request("GET", f"http://127.0.0.1:4200{path}")
    answer = httpx.Response(status, request=request, json={})

    def action():
        try:
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            raise PrefectHTTPStatusError.from_httpx_error(error) from None

    with pytest.raises(SystemExit) as ended:
        leave(action)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
