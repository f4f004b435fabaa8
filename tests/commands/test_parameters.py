"""What a run is given from elsewhere: no address, no file, no other's block, no bomb; refused before any paid call."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow_async
from pydantic import SecretStr, ValidationError

from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.member import MOST_INSTANCES, members_of, parse_member
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.flows.batch import batch
from consensus_flows.flows.openrouter_models import openrouter_working_models
from consensus_flows.flows.pump import pump
from consensus_flows.tasks.batches.addresses import dated
from consensus_flows.tasks.check_cases import read_cases
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.files import FOLDER, deployed, place
from consensus_flows.tasks.json_text import parse
from consensus_flows.tasks.prompting.prompt_sets import prompt_set
from consensus_flows.tasks.reports.flare import read_input
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
async def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Runs a flow the way a worker does: as a run of a deployment, with parameters that came over the server."""
    folder = tmp_path / "worker"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))

    deployments: dict[str, Any] = {}

    async def run(flow: Flow[Any, Any], /, **parameters: Any) -> Any:
        async with get_client() as client:
            if flow.name not in deployments:
                flow_id = await client.create_flow(flow)
                deployments[flow.name] = await client.create_deployment(flow_id=flow_id, name="from-elsewhere")
            made = await client.create_flow_run_from_deployment(deployments[flow.name], parameters=parameters)
        return await run_flow_async(flow, flow_run=made, parameters=parameters, return_type="state")

    def unnamed() -> None:
        """Let the worker run in the folder, and the variable name none."""
        monkeypatch.delenv(FOLDER)
        monkeypatch.chdir(folder)

    run.folder, run.unnamed = folder, unnamed  # type: ignore[attr-defined]
    yield run
    async with get_client() as client:
        for deployment in deployments.values():
            await client.delete_deployment(deployment)


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
        {"Model": "dearest"},
        {"models": ["openai/o1-pro"]},
        {"route": "fallback"},
        {"preset": "mine"},
        {"fallbacks": [{"model": "dearest"}]},
        {"safety_model": "dearest"},
        {"generationConfig": {}, "generation_config": {"maxOutputTokens": 10**6}},
        {"generationConfig": {"routingConfig": {"autoMode": {}}}},
        {"config": {"max_output_tokens": 10**6}},
        {"max_new_tokens": 10**6},
        {"n_predict": 10**6},
        {"options": {"num_predict": 10**6}},
        {"best_of": 20},
        {"use_beam_search": True},
        {"plugins": [{"id": "web"}]},
        {"tools": [{"type": "web_search"}]},
        {"functions": []},
        {"web_search_options": {}},
        {"cachedContent": "x"},
        {"chat_template": "{{ 1 }}"},
        {"modalities": ["audio"]},
        {"deferred": True},
        {"a": [{"b": {"c": [[{"models": []}]]}}]},
    ],
)
def test_what_the_budget_is_reckoned_by_has_one_place(extra: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="must not be set here"):
        Sampling(extra=extra)


@pytest.mark.parametrize(
    "extra",
    [
        {"mcp_servers": [{"type": "url", "url": "https://evil.example"}]},
        {"litellm_params": {"x": 1}},
        {"provider": {"api_base": "x"}},
        {"a": {"b": [{"apiKey": "x"}]}},
        {"azure_ad_token": "x"},
        {"aws_secret_access_key": "x"},
        {"vertex_credentials": "x"},
        {"HTTP-Headers": {}},
        {"image_url": "x"},
        {"whatever": ["https://evil.example"]},
        {"kv_transfer_params": {"remote_host": "x"}},
    ],
)
def test_no_address_is_passed_through_at_any_depth(extra: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"must not be set here: (the address|a member answers)"):
        Sampling(extra=extra)


PLAIN_SETTINGS = """
top_k top_a min_p typical_p seed random_seed repetition_penalty frequency_penalty presence_penalty
length_penalty dry_multiplier xtc_probability dynatemp_range n_keep n_probs min_tokens ignore_eos bad_words
skip_special_tokens guided_regex truncate_prompt_tokens prompt_cache_key prompt_cache_retention cache_prompt
verbosity safety_identifier user store include_reasoning reasoning_format thinking_budget
max_thinking_tokens safe_prompt prompt_mode logprobs top_logprobs keep_alive speed inference_geo
cache_control priority lora
"""
OTHER_SETTINGS: dict[str, Any] = {
    "service_tier": "flex",
    "provider": {"order": ["x"], "only": ["y"], "allow_fallbacks": False, "sort": "price", "data_collection": "deny"}
    | {"require_parameters": True, "quantizations": ["fp8"], "max_price": {"prompt": 1, "completion": 2}, "zdr": True},
    "reasoning": {"effort": "low", "max_tokens": 500, "exclude": True},
    "thinking": {"type": "enabled", "budget_tokens": 2048},
    "generationConfig": {"presencePenalty": 0.5, "thinkingConfig": {"thinkingBudget": 0, "includeThoughts": False}},
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    "logit_bias": {"1": 1, "model": -1},
    "metadata": {"n": 1, "model": "x", "source": "https://example.org"},
    "response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": {"model": {}, "n": {}}}}},
    "chat_template_kwargs": {"enable_thinking": False},
    "transforms": ["middle-out"],
    "stop_token_ids": [1],
    "options": {"num_ctx": 8192, "mirostat": 2},
} | dict.fromkeys(PLAIN_SETTINGS.split(), 1)


def test_what_vendors_and_servers_take_beside_is_passed_through() -> None:
    assert Sampling(extra=OTHER_SETTINGS).extra == OTHER_SETTINGS
    deep: Any = 1
    for _ in range(50):
        deep = {"x": [deep]}
    Sampling(extra={"x": deep})


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
    state = await worker(pump, prompt="What?", config="vault")
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


OUTSIDE = ["{}", "../outside", "a/../../outside", "link", "file://{}", " file://{}", "local://{}", "file:///../..{}"]
ELSEWHERE = ["FILE://{}", "simplecache::file://{}", "blockcache::local://{}", "dir::file://{}", "dir://x::file://{}"]
ELSEWHERE += ["http://127.0.0.1:1", "sftp://127.0.0.1:1", "memory://x", "reference://x", "x://../outside"]


@pytest.mark.parametrize(("form", "named"), zip(OUTSIDE + ELSEWHERE, cycle([True, False]), strict=False))
async def test_a_deployed_batch_reads_and_writes_nothing_outside_of_its_folder(
    form: str, named: bool, vendors: LoopbackVendors, worker: Any, tmp_path: Path
) -> None:
    if not named:
        worker.unnamed()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "in.txt").write_text("canary0file")
    (worker.folder / "link").symlink_to(outside)
    (worker.folder / "in.txt").write_text("What?")
    address = form.format(outside)
    given = {"input": "in.txt", "output": "out.jsonl", "flow": "pump", "config": PANEL}
    why = f"leads out of {worker.folder}" if form in OUTSIDE else "is neither a path nor an address of a store"
    for changed in (
        {"input": f"{address}/in.txt"},
        {"output": f"{address}/out.jsonl"},
        {"output": f"{address}/{{date}}.jsonl"},
        {"output": f"{address}/out.jsonl", "shards": 2},
        {"output": f"{address}/out.jsonl", "shards": 2, "shard": 1},
    ):
        state = await worker(batch, **given | changed)
        assert state.is_failed()
        assert state.message.startswith(f"{next(iter(changed))}: ") and why in state.message
        assert "canary0file" not in state.message
    assert sorted(path.name for path in outside.iterdir()) == ["in.txt"]
    assert sorted(path.name for path in worker.folder.iterdir()) == ["in.txt", "link"]
    assert vendors.count() == 0


async def test_a_link_that_has_the_name_of_a_day_is_followed_too(
    vendors: LoopbackVendors, worker: Any, tmp_path: Path
) -> None:
    (worker.folder / "in.txt").write_text("What?")
    (worker.folder / dated("{date}.jsonl")).symlink_to(tmp_path / "out.jsonl")
    for changed in (
        {"output": "{date}.jsonl"},
        {"config": PANEL | {"prompt_set": "../mine.toml"}},
        {"input": "a\0b.txt"},
    ):
        given = {"input": "in.txt", "output": "out.jsonl", "flow": "pump", "config": PANEL}
        state = await worker(batch, **given | changed)
        assert state.is_failed() and ("leads out of" in state.message or "is not a path" in state.message), (
            state.message
        )
    assert vendors.count() == 0


@pytest.mark.parametrize("named", [True, False])
async def test_a_deployed_batch_works_in_its_folder(
    named: bool, vendors: LoopbackVendors, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not named:
        worker.unnamed()
    (worker.folder / "data").mkdir()
    (worker.folder / "data" / "in.txt").write_text("What?")
    (worker.folder / "link").symlink_to(worker.folder / "data")
    for number, source in enumerate(
        ("data/in.txt", " link/../data/in.txt", f"local://{worker.folder}/data", "file://link")
    ):
        state = await worker(batch, input=source, output=f"link/out-{number}-{{date}}.csv", flow="pump", config=PANEL)
        assert state.is_completed(), state.message
        assert (worker.folder / "data" / dated(f"out-{number}-{{date}}.csv")).is_file()
    for module in ("s3fs", "gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, module, None)
    for scheme in ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"):
        state = await worker(batch, input=f"{scheme}://bucket/in.txt", output="out.csv", flow="pump", config=PANEL)
        assert "pip install 'consensus-flows[" in state.message or scheme == "abfss", state.message


async def test_a_deployed_batch_reads_an_example_of_the_package_where_the_folder_has_none(
    vendors: LoopbackVendors, worker: Any
) -> None:
    given = {"input": "examples/prompts.csv", "output": "out.jsonl", "flow": "pump", "config": PANEL}
    state = await worker(batch, **given)
    assert state.is_completed(), state.message
    assert vendors.count() == 5
    assert [one.name for one in worker.folder.iterdir()] == ["out.jsonl"]
    (worker.folder / "examples").mkdir()
    (worker.folder / "examples" / "prompts.csv").write_text("prompt\nMine?\n")
    state = await worker(batch, **given | {"overwrite": True})
    assert state.is_completed(), state.message
    assert vendors.seen[-1].prompt == "Mine?"
    for changed in (
        {"input": "examples/../errors.py"},
        {"input": "examples/gone.csv"},
        {"output": "examples/gone/out.jsonl"},
    ):
        state = await worker(batch, **given | changed)
        assert state.is_failed() and str(worker.folder) in state.message, state.message
    assert vendors.count() == 6


@pytest.mark.parametrize("field", ["input", "output", "records"])
async def test_a_deployed_run_writes_nothing_outside_of_its_folder(
    field: str, vendors: LoopbackVendors, worker: Any, tmp_path: Path
) -> None:
    (worker.folder / "questions").mkdir()
    (worker.folder / "questions" / "one.md").write_text("What?")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "one.md").write_text("canary0file")
    folders = {"input": "questions", "output": "records/out.jsonl", "records": "records"} | {field: "../elsewhere"}
    config = {"members": ["openai/one", "openai/two", "openai/three"]}
    state = await worker(batch, flow="prefer", config=config, **folders)
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
    assert (ran.code, "bomb.toml is not TOML" in ran.err) == (2, True), ran.err[-500:]
    with pytest.raises(ConfigurationError, match="is not TOML"):
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
