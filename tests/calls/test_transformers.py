"""Models of Hugging Face's transformers, made from the weights of the small local model. `make test-hf` runs this."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from consensus_flows.blocks import MixtureOfAgentsConfig, ModelName, OpenAICompatibleCredentials, Sampling
from consensus_flows.flows.mixture_of_agents import mixture_of_agents
from consensus_flows.tasks.calls import hub, model_server, providers
from consensus_flows.tasks.calls.local_model import gguf_path
from consensus_flows.tasks.calls.model_server import ModelServer
from consensus_flows.tasks.calls.providers import check_models, close_clients, endpoint_of, prepare
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.calls.vendors import hf
from consensus_flows.tasks.calls.vendors.hf import VENDOR, folder_id
from consensus_flows.tasks.calls.vendors.vendor import Repairs
from consensus_flows.tasks.errors import ConfigurationError
from tests.kits.asking import answer, forget, outcome, question
from tests.kits.hub import TOKEN, Hub, serving

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed: make test-hf")
BEAMS: dict[str, Any] = {"num_beams": 5, "early_stopping": True, "no_repeat_ngram_size": 5, "do_sample": True}
"""The settings of LLM-Mixture-of-Agents, with its temperatures, top_k and top_p below."""
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Return folders of the same weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, path = tmp_path_factory.mktemp("models"), gguf_path("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder / "one")
    tokenizer.save_pretrained(folder / "one")
    for name in ("two", "three"):
        shutil.copytree(folder / "one", folder / name, copy_function=os.link)
    yield [str(folder / name) for name in ("one", "two", "three")]
    hf._memory.free()


@pytest.fixture(scope="module")
def files(models: list[str]) -> dict[str, Path]:
    return {path.name: path for path in Path(models[0]).iterdir()}


def generation(**settings: Any) -> dict[str, Any]:
    request = Request(
        provider="hf", model="/m", messages=(Message(role="user", content="?"),), sampling=Sampling(**settings)
    )
    body = VENDOR.build(request, Repairs())["extra_body"]
    return {"generation": json.loads(body.pop("generation_config")), **body}


def test_settings_are_those_of_a_generation_config() -> None:
    assert generation() == {"generation": {"max_new_tokens": 1024}}
    assert generation(temperature=0.0, max_output_tokens=9) == {"generation": {"max_new_tokens": 9, "do_sample": False}}
    sampled = generation(temperature=0.3, top_k=20, top_p=0.9, seed=7, stop=("END",), extra=BEAMS)
    assert sampled == {
        "generation": {"max_new_tokens": 1024, "temperature": 0.3, "top_k": 20, "top_p": 0.9, **BEAMS},
        "seed": 7,
        "stop": ["END"],
    }


def test_several_sequences_are_instances() -> None:
    with pytest.raises(ValueError, match="as in provider/model:3"):
        Sampling(extra={"num_return_sequences": 3})


def test_a_schema_is_in_the_prompt_and_beams_are_not_streamed() -> None:
    request = question("hf", model="/m", response_schema=SCHEMA)
    assert "response_format" not in str(VENDOR.build(request, Repairs()))
    assert "JSON" in VENDOR.build(request, Repairs())["messages"][0]["content"]
    assert VENDOR.notes(request, Repairs())
    assert VENDOR.stream_arguments(request, Repairs())
    searched = request.model_copy(update={"sampling": Sampling(extra=BEAMS)})
    assert VENDOR.stream_arguments(searched, Repairs()) == {}


def test_a_folder_is_known_by_its_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no model that can be read"):
        folder_id(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = folder_id(tmp_path)
    assert VENDOR.address(str(tmp_path)) == f"hf:{before}"
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert folder_id(tmp_path) != before


async def test_without_pytorch_the_extra_is_named(
    results: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forget()
    monkeypatch.setattr(hf, "find_spec", lambda name: None if name == "torch" else find_spec("os"))
    with pytest.raises(ConfigurationError, match=r"torch is not installed: pip install 'consensus-flows\[hf\]'"):
        await endpoint_of("hf", str(tmp_path))


async def test_a_model_is_loaded_once_for_all_calls_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    async def load(model: str) -> str:
        await asyncio.sleep(0)
        if loaded[-1:] != [model]:
            loaded.append(model)
        return model

    async def call(model: str) -> None:
        async with room.of(model) as base_url:
            await asyncio.sleep(0.01)
            assert base_url == loaded[-1] == model

    monkeypatch.setattr(hf._memory, "load", load)
    room = hf._Room()
    await asyncio.gather(*map(call, ["a", "b", "c", "a", "b", "a", "c"]))
    assert loaded == ["a", "b", "c"]
    given_up = asyncio.create_task(call("d"))
    await asyncio.sleep(0)
    given_up.cancel()
    await call("a")
    assert loaded[-1] == "a"


@needs_torch
@pytest.mark.timeout(3600)
async def test_a_mixture_of_three_models_needs_the_memory_of_one(
    results: str, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget()
    loaded: list[str] = []
    at_once: list[int] = []
    wait = ModelServer.wait

    def counted(self: ModelServer) -> None:
        loaded.append(self.settings["model"])
        at_once.append(sum(server.runs for server in model_server._started if "model" in server.settings))
        wait(self)

    def sampling(temperature: float, top_k: int, top_p: float, tokens: int) -> Sampling:
        return Sampling(
            temperature=temperature, top_k=top_k, top_p=top_p, max_output_tokens=tokens, extra=BEAMS, seed=1
        )

    one, two, three = (f"hf/{model}" for model in models)
    config = MixtureOfAgentsConfig(
        layers=[
            {"members": [one, two, one], "sampling": sampling(0.3, 20, 0.9, 128)},
            {"members": [three], "sampling": sampling(0.2, 20, 0.9, 128)},
        ],
        aggregator=one,
        aggregator_settings=sampling(0.1, 10, 0.95, 256),
        system="Answer in one short sentence.",
        timeout=900,
    )
    monkeypatch.setattr(ModelServer, "wait", counted)
    record = await mixture_of_agents("What is the capital of France?", config)
    assert record.answer and record.calls == 5 and record.cost_usd == 0.0
    assert loaded == [*models, models[0]] and set(at_once) == {1}
    said = [response for one in record.iterations for response in one.responses]
    assert {one.model for one in said} == {*models} and {one.model_served for one in said} == {*models}


@needs_torch
@pytest.mark.timeout(600)
async def test_a_gated_model_of_the_hub_is_opened_by_a_saved_key(
    results: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget()
    name = ModelName("hf", "their/Gated-Model")
    others = {"README.md": b"#", "tf_model.h5": b"x"}
    with serving(Hub({name.model: files | others}, gated=(name.model,))) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        with pytest.raises(ConfigurationError, match="their/Gated-Model is gated"):
            await endpoint_of(*name)
        key = OpenAICompatibleCredentials(base_url="https://router.huggingface.co/v1", api_key=SecretStr(TOKEN))
        providers._saved[providers._saved_key("huggingface")] = (float("inf"), key)
        await prepare(await check_models([name]))
        assert {*served.downloaded} == {*files}
    assert hub.models_in_cache() == [name.model]
    brief = Message(role="system", content="Answer in one short sentence.")
    asked = Message(role="user", content="What is the capital of France?")
    request = question(name.provider, model=name.model, sampling=Sampling(max_output_tokens=64, temperature=0.0))
    given = await answer(request.model_copy(update={"messages": (brief, asked)}))
    await close_clients()
    assert "Paris" in given.text and given.finish_reason == "stop" and given.usage.input_tokens > 10
    forget()


@needs_torch
@pytest.mark.timeout(600)
async def test_what_transformers_refuses_is_said_once_and_in_its_words(results: str, models: list[str]) -> None:
    forget()
    refused = {
        "GenerationConfig has no num_beam": {"num_beam": 5},
        "early_stopping": {"early_stopping": "soon", "num_beams": 2},
    }
    for said, extra in refused.items():
        failed, log = await outcome(question("hf", model=models[0], sampling=Sampling(extra=extra)))
        assert failed.kind == "bad_request" and said in failed.message and len(log.attempts) == 1
    await close_clients()


@needs_torch
@pytest.mark.timeout(600)
async def test_an_answer_that_is_given_up_is_not_waited_for(
    results: str, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget()
    monkeypatch.setenv("CONSENSUS_RETRIES", "0")
    never = Sampling(max_output_tokens=4000, extra={"min_new_tokens": 4000})
    failed, _ = await outcome(question("hf", model=models[0], sampling=never, timeout=3))
    assert failed.kind == "timeout"
    assert hf._memory.server is not None and not hf._memory.server.runs
    await close_clients()


@needs_torch
@pytest.mark.timeout(600)
async def test_a_folder_that_transformers_cannot_load_says_why(results: str, tmp_path: Path) -> None:
    forget()
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    name = ModelName("hf", str(tmp_path))
    await check_models([name])
    failed, _ = await outcome(question("hf", model=str(tmp_path)))
    assert f"transformers cannot serve {tmp_path}: ValueError: Unrecognized processing class" in failed.message
    await close_clients()
