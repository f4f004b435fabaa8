"""Models of Hugging Face's transformers, made from the weights of the small local model. `make test-hf` runs this."""

from __future__ import annotations

import json
import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from consensus_flows.blocks import MixtureOfAgentsConfig, ModelName, Sampling
from consensus_flows.flows.mixture_of_agents import mixture_of_agents
from consensus_flows.tasks.calls import hf_model
from consensus_flows.tasks.calls.hf_model import HFModelError, folder_id
from consensus_flows.tasks.calls.local_model import gguf_path
from consensus_flows.tasks.calls.providers import check_models, endpoint_of
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.calls.vendors.hf import VENDOR
from consensus_flows.tasks.calls.vendors.vendor import Repairs
from consensus_flows.tasks.errors import ConfigurationError
from tests.kits.asking import forget, question

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed: make test-hf")
BEAMS: dict[str, Any] = {"num_beams": 5, "early_stopping": True, "no_repeat_ngram_size": 5, "do_sample": True}
"""The settings of LLM-Mixture-of-Agents, with its temperatures, top_k and top_p below."""
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
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
        shutil.copytree(folder / "one", folder / name)
    return [str(folder / name) for name in ("one", "two", "three")]


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
    with pytest.raises(HFModelError, match="has no model that can be read"):
        folder_id(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = folder_id(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert folder_id(tmp_path) != before


async def test_without_pytorch_the_extra_is_named(
    results: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forget()
    monkeypatch.setattr("consensus_flows.tasks.calls.vendors.hf.missing", lambda: "torch")
    with pytest.raises(ConfigurationError, match=r"torch is not installed: pip install 'consensus-flows\[hf\]'"):
        await endpoint_of("hf", str(tmp_path))


@needs_torch
@pytest.mark.timeout(3600)
async def test_a_mixture_of_three_models_needs_the_memory_of_one(results: str, models: list[str]) -> None:
    forget()
    loaded: list[str] = []
    most = 0
    start = hf_model._Server.__init__

    def counted(self: Any, model: str) -> None:
        nonlocal most
        start(self, model)
        loaded.append(model)
        most = max(most, len(hf_model._running))

    def sampling(temperature: float, top_k: int, top_p: float, tokens: int) -> Sampling:
        return Sampling(
            temperature=temperature, top_k=top_k, top_p=top_p, max_output_tokens=tokens, extra=BEAMS, seed=1
        )

    one, two, three = (f"hf/{model}" for model in models)
    config = MixtureOfAgentsConfig(
        layers=[
            {"members": [one, two], "sampling": sampling(0.3, 20, 0.9, 128)},
            {"members": [three], "sampling": sampling(0.2, 20, 0.9, 128)},
        ],
        aggregator=one,
        aggregator_settings=sampling(0.1, 10, 0.95, 256),
        system="Answer in one short sentence.",
        timeout=900,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_model._Server, "__init__", counted)
        record = await mixture_of_agents("What is the capital of France?", config)
    assert record.answer and record.calls == 4 and record.cost_usd == 0.0
    assert sorted(loaded) == sorted([*models, models[0]]) and most == 1
    assert {response.model for one in record.iterations for response in one.responses} >= {*models[:2]}


@needs_torch
async def test_a_folder_that_transformers_cannot_load_says_why(results: str, tmp_path: Path) -> None:
    forget()
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    name = ModelName("hf", str(tmp_path))
    await check_models([name])
    begun = time.monotonic()
    with pytest.raises(HFModelError, match="transformers cannot serve"):
        async with hf_model.room().of(str(tmp_path)):
            pass
    assert time.monotonic() - begun < 120
