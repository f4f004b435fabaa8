"""What a run is given from elsewhere: no address, no file, no other's block, no bomb; refused before any paid call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow_async
from pydantic import SecretStr, ValidationError

from blocks.consortium import ConsortiumConfig
from blocks.member import MOST_INSTANCES, members_of, parse_member
from blocks.pump import PumpConfig
from blocks.sampling import Sampling
from flows.openrouter_models import openrouter_working_models
from flows.prefer_prompts import prefer_prompts
from flows.pump import pump
from tasks.check_cases import read_cases
from tasks.errors import ConfigurationError
from tasks.json_text import parse
from tasks.places import FOLDER, deployed, place
from tasks.prompting.prompt_sets import prompt_set
from tasks.reports.flare import read_input
from tests.kits.command_kit import Command, commands
from tests.vendors import LoopbackVendors

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
PANEL = {"members": ["openai/one"]}


@pytest.fixture
def consensus(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands(monkeypatch, capsys)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a flow the way a worker does: as a run of a deployment, with parameters that came over the server."""
    folder = tmp_path / "worker"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))

    async def run(flow: Flow[Any, Any], **parameters: Any) -> Any:
        async with get_client() as client:
            flow_id = await client.create_flow(flow)
            deployment = await client.create_deployment(flow_id=flow_id, name="from-elsewhere")
            made = await client.create_flow_run_from_deployment(deployment, parameters=parameters)
            try:
                return await run_flow_async(flow, flow_run=made, parameters=parameters, return_type="state")
            finally:
                await client.delete_deployment(deployment)

    run.folder = folder  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(
    "name",
    ["base_url", "api_base", "api_key", "extra_headers", "extra_query", "extra_body", "http_options", "user_config"],
)
def test_no_address_and_no_key_is_passed_through(name: str) -> None:
    for settings in (
        {"sampling": {"extra": {name: "https://evil.example"}}},
        {"member_settings": {"openai/one": {"extra": {name: "x"}}}},
    ):
        with pytest.raises(ValidationError, match="belong to the provider's credentials"):
            PumpConfig.model_validate(PANEL | settings)
    with pytest.raises(ValidationError, match="credentials"):
        ConsortiumConfig.model_validate(PANEL | {"arbiter": "openai/a", "arbiter_settings": {"extra": {name: "x"}}})
    for field in (name, "base_url"):
        with pytest.raises(ValidationError):
            PumpConfig.model_validate(PANEL | {field: "https://evil.example"})


@pytest.mark.parametrize(
    "extra",
    [
        {"model": "dearest"},
        {"messages": []},
        {"n": 50},
        {"max_tokens": 10**6},
        {"max_completion_tokens": 10**6},
        {"generationConfig": {"maxOutputTokens": 10**6}},
        {"generation_config": {"candidateCount": 9}},
        {"stream": True},
    ],
)
def test_what_the_budget_is_reckoned_by_has_one_place(extra: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="must not be set here"):
        Sampling(extra=extra)
    Sampling(extra={"service_tier": "flex", "provider": {"order": ["x"]}, "logit_bias": {"1": 1}, "metadata": {"n": 1}})


@pytest.mark.parametrize("name", ["../one", "/etc/one", "openai/", "/", "OPENAI/x", "a b/c", "..//x", "https://x/y"])
def test_a_name_of_a_model_names_no_place(name: str) -> None:
    with pytest.raises(ValueError, match="provider/model"):
        parse_member(name)


@pytest.mark.parametrize("count", [str(MOST_INSTANCES + 1), "9" * 12, "9" * 10_000, "0", "-3", "-" + "9" * 9000])
def test_a_count_is_no_bomb(count: str) -> None:
    with pytest.raises(ValueError, match=r"it must be at (most 1000|least 1)") as raised:
        members_of([f"openai/one:{count}"])
    assert len(str(raised.value)) < 12_000
    assert len(members_of([f"openai/one:{MOST_INSTANCES}", "openai/two:00003"])) == MOST_INSTANCES + 3


async def test_another_kind_of_block_is_no_provider(vendors: LoopbackVendors, worker: Any) -> None:
    await Secret(value=SecretStr("canary0secret")).asave("vault", overwrite=True)
    state = await worker(pump, prompt="What?", config={"members": ["vault/one"]})
    assert state.is_failed()
    assert "vault" in state.message
    assert "canary0secret" not in state.message
    state = await worker(pump, prompt="What?", saved="vault")
    assert "no configuration is saved as 'vault'" in state.message
    assert vendors.count() == 0


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside.toml", "link.toml", "a/../../outside.toml", "~/x.toml"])
async def test_a_deployed_run_reads_no_file_outside_of_its_folder(
    path: str, vendors: LoopbackVendors, worker: Any, tmp_path: Path
) -> None:
    (tmp_path / "outside.toml").write_text('system = "canary0file"')
    (worker.folder / "link.toml").symlink_to(tmp_path / "outside.toml")
    (worker.folder / "~").mkdir()
    state = await worker(pump, prompt="What?", config=PANEL | {"prompt_set": path})
    assert state.is_failed() or path.startswith("~")
    assert "canary0file" not in state.message
    if not path.startswith("~"):
        assert f"prompt_set: {path!r} leads out of {worker.folder}" in state.message
    assert vendors.count() == 0


async def test_a_deployed_run_reads_what_lies_in_its_folder(
    vendors: LoopbackVendors, worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (worker.folder / "mine.toml").write_text('system = "Be exact."')
    state = await worker(pump, prompt="What?", config=PANEL | {"prompt_set": "./mine.toml"})
    assert state.is_completed(), state.message
    assert vendors.seen[-1].system == "Be exact."
    # The folder of one's own prompt sets is another one that the worker's owner has chosen.
    sets = tmp_path / "sets"
    sets.mkdir()
    (sets / "own.toml").write_text('system = "Be brief."')
    monkeypatch.setenv("CONSENSUS_PROMPT_SETS", str(sets))
    state = await worker(pump, prompt="What?", config=PANEL | {"prompt_set": str(sets / "own.toml")})
    assert state.is_completed(), state.message
    assert vendors.seen[-1].system == "Be brief."
    # Who runs it oneself may read what one may read.
    assert not deployed()
    assert place(tmp_path / "x", "field") == tmp_path / "x"


@pytest.mark.parametrize("field", ["prompts", "output"])
async def test_a_deployed_run_writes_nothing_outside_of_its_folder(
    field: str, vendors: LoopbackVendors, worker: Any, tmp_path: Path
) -> None:
    (worker.folder / "questions").mkdir()
    (worker.folder / "questions" / "one.md").write_text("What?")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "one.md").write_text("canary0file")
    folders = {"prompts": "questions", "output": "records"} | {field: "../elsewhere"}
    config = {"members": ["openai/one", "openai/two", "openai/three"]}
    state = await worker(prefer_prompts, config=config, **folders)
    assert state.is_failed()
    assert f"{field}: '../elsewhere' leads out of" in state.message
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["one.md"]
    state = await worker(openrouter_working_models, config={"output_dir": str(tmp_path / "elsewhere")})
    assert "output_dir: " in state.message and "leads out of" in state.message
    assert vendors.count() == 0


DEEP = "[" * 100_000
BOMBS = [
    DEEP,
    DEEP + "]" * 100_000,
    '{"a":' * 100_000,
    '{"models": ' + DEEP,
    '["x", ' + DEEP,
    "[" + "9" * 100_000 + "]",
]


@pytest.mark.parametrize("text", BOMBS)
def test_a_bomb_in_a_file_is_one_clear_error(text: str, consensus: Command, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nested too deep|Exceeds the limit|Expecting"):
        parse(text)
    for read in (read_input, read_cases):
        with pytest.raises(ConfigurationError):
            read(text)
    path = tmp_path / "bomb.json"
    path.write_text(text)
    for arguments in (
        ("learn", "--input", path),
        ("pump", "What?", "--config", path),
        ("moa", "What?", "--aggregator", "openai/two", "--reference", path),
        ("keys", "import", path),
    ):
        ran = consensus(*arguments)
        assert ran.code == 2, (arguments, ran.err[-500:])
        assert "Traceback" not in ran.err
        assert "bomb.json" in ran.err
    (tmp_path / "bomb.toml").write_text(f"system = {text}")
    ran = consensus("pump", "What?", "--config", tmp_path / "bomb.toml")
    assert (ran.code, "bomb.toml is no TOML" in ran.err) == (2, True), ran.err[-500:]
    with pytest.raises(ConfigurationError, match="is no TOML"):
        prompt_set(str(tmp_path / "bomb.toml"))


@pytest.mark.parametrize("size", [600_000, 5_000_000])
def test_a_prompt_that_prefect_cannot_take_is_refused_before_any_call(
    size: int, consensus: Command, vendors: LoopbackVendors
) -> None:
    ran = consensus("pump", "-m", "openai/one", "-", stdin="word " * (size // 5))
    assert ran.code == 2, ran.err[-800:]
    assert "Traceback" not in ran.err
    assert "512" in ran.err
    assert vendors.count() == 0


def test_a_saved_configuration_of_the_wrong_shape_is_one_clear_error() -> None:
    for text in ("[]", '{"members": {}}', '{"members": ["openai/one"], "sampling": {"extra": []}}', '{"members": [1]}'):
        with pytest.raises(ValidationError):
            PumpConfig.model_validate(json.loads(text))
