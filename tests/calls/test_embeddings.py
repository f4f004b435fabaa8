"""Texts become vectors through the real SDKs: stored, retried, priced and budgeted like every call; and are compared."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus_flows.blocks import Budget
from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.tasks.calls.budget import spending
from consensus_flows.tasks.calls.call import Caller
from consensus_flows.tasks.calls.local_model import INSTALL_HINT, LocalModelError, gguf_path
from consensus_flows.tasks.calls.providers import check_models
from consensus_flows.tasks.calls.request import Message, Request, request_key
from consensus_flows.tasks.calls.storage import is_answer_record
from consensus_flows.tasks.counting.agreement import LEXICAL, Likeness, agreement, clusters, cosine, medoid
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.measuring import MAX_CHARACTERS, embedding_request
from consensus_flows.tasks.readers import UnreadableError, packed, read_vector
from tests.kits.asking import stored
from tests.kits.kinds import kinds
from tests.vendors import Reply, Usage, embed, faults

calls = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
MODELS = {
    "openai": "text-embedding-3-small",
    "google": "gemini-embedding-001",
    "openrouter": "openai/text-embedding-3-small",
}


def request(provider: str = "openai", text: str = "a red cat", **fields: Any) -> Request:
    model = ModelName(provider, fields.pop("model", MODELS.get(provider, "m")))
    return embedding_request(model, text, **{"label": "x", "timeout": 5.0} | fields)


# The vector.


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
def test_a_vector_is_read_as_it_was_written_but_for_its_length(values):
    length = math.sqrt(math.fsum(value * value for value in values))
    if length == 0:
        with pytest.raises(UnreadableError, match="zero or invalid"):
            read_vector(packed(values))
        return
    assert read_vector(packed(values)) == pytest.approx([value / length for value in values])


@pytest.mark.parametrize("text", ["", "####", "abc", packed([0, 0]), packed([math.nan, 1]), packed([math.inf])])
def test_what_is_no_vector_is_not_read(text):
    with pytest.raises(UnreadableError):
        read_vector(text)


def test_a_cosine_below_nothing_counts_as_nothing():
    assert cosine([1, 0], [-1, 0]) == 0
    assert cosine([1, 0], [0, 1]) == 0
    assert cosine([1.0000001, 0], [1, 0]) == 1
    assert cosine([0.6, 0.8], [1, 0]) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="3 dimensions"):
        cosine([1, 0, 0], [1, 0])


def test_every_count_goes_by_the_measure_that_it_is_given():
    texts = ["it rains heavily here now", "a strong downpour", "it is dry here now"]
    meaning = Likeness("embedding:a/b", dict(zip(texts, [(1.0, 0.0), (0.8, 0.6), (0.0, 1.0)], strict=True)))
    assert agreement(texts, meaning) == pytest.approx((0.8 + 0.0 + 0.6) / 3, abs=1e-4)
    assert (medoid(texts), medoid(texts, meaning)) == (0, 1)
    assert (clusters(texts, 0.5), clusters(texts, 0.7, meaning)) == ([0, 1, 0], [0, 0, 1])
    assert meaning.between(texts[0], texts[1]) == pytest.approx(0.8)
    assert LEXICAL.between(texts[0], texts[2]) > 0.5
    assert (LEXICAL.measure, meaning.measure) == ("lexical", "embedding:a/b")
    with pytest.raises(KeyError):
        meaning.between(texts[0], "another text")


# The call.


def test_a_vector_has_a_key_of_its_own():
    """Its fields are those of every request, and a test of those lists them all."""
    wanted = request()
    chat = Request(provider="openai", model=wanted.model, messages=(Message(role="user", content="a red cat"),))
    assert wanted.kind == "embedding"
    assert chat.kind == "chat"
    keys = [
        request_key(one, address)
        for address in ("https://a", "https://b")
        for one in (wanted, chat, request(text="a red dog"), request(model="m"), request("google", model=wanted.model))
    ]
    assert len(set(keys)) == len(keys)
    assert request_key(wanted, "x") == request_key(request(label="other", timeout=1.0), "x")
    assert len(request(text="x" * 2 * MAX_CHARACTERS).messages[0].content) == MAX_CHARACTERS


class TestCalls:
    pytestmark = calls

    @pytest.mark.parametrize("provider", ["openai", "google", "openrouter"])
    async def test_a_text_is_embedded_once(self, vendors, provider):
        wanted = request(provider)
        found = await Caller()(wanted, member="e")
        assert found.error is None
        assert found.embedding == pytest.approx(embed("a red cat"), abs=1e-6)
        assert (found.text, found.cached, found.attempts, found.usage.input_tokens) == (None, False, 1, 3)
        assert found.usage.output_tokens == 0
        assert found.cost_usd is not None
        assert found.cost_usd > 0
        assert "embedding" not in found.model_dump()
        again = await Caller()(wanted, member="e")
        assert (again.embedding, again.cached, again.cost_usd) == (found.embedding, True, 0)
        assert vendors.count(kind="embeddings") == 1
        (content,) = stored().values()
        assert is_answer_record(content)
        await Caller(fresh=True)(wanted)
        assert vendors.count(kind="embeddings") == 2

    async def test_what_is_sent(self, vendors):
        for one in (request(), request("google"), request("google", model="gemini-embedding-2")):
            await Caller()(one)
        openai, old, new = vendors.seen
        assert openai.path == "/v1/embeddings"
        assert openai.params == {"model": MODELS["openai"], "input": "a red cat", "encoding_format": "base64"}
        assert old.path.endswith("/models/gemini-embedding-001:batchEmbedContents")
        assert old.params["requests"][0]["taskType"] == "SEMANTIC_SIMILARITY"
        assert "taskType" not in new.params["requests"][0], "the model refuses it"

    async def test_a_server_may_send_numbers_and_no_usage(self, vendors):
        body = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [3, 4]}]}
        vendors.script("m", then=Reply(body=body))
        found = await Caller()(request(model="m"))
        assert found.embedding == pytest.approx((0.6, 0.8))
        assert found.cost_usd is None, "unknown, and not nothing"
        assert kinds(found) == [("odd_response", "openai/m", None)]

    @pytest.mark.parametrize("provider", ["openai", "google"])
    @pytest.mark.parametrize(
        ("step", "kind", "requests"),
        [
            (faults.unauthorized(), "auth", 1),
            (faults.insufficient_quota(), "quota", 1),
            (faults.not_found(), "not_found", 1),
            (faults.server_error(), "server", 5),
            (faults.close_before(), "connection", 2),
            (Reply(vector=lambda _: []), "empty", 2),
            (Reply(vector=lambda _: [0.0, 0.0]), "malformed", 1),
            (faults.invalid_json(), "malformed", 2),
        ],
    )
    async def test_a_failure_means_what_it_means_everywhere(self, vendors, provider, step, kind, requests):
        vendors.script(MODELS[provider], then=step)
        found = await Caller()(request(provider))
        assert found.error is not None
        assert (found.error.kind, found.embedding) == (kind, None)
        assert vendors.count(kind="embeddings") == requests
        assert not stored(), "only what can be used is stored"

    async def test_an_error_that_comes_as_a_success(self, vendors):
        vendors.script(MODELS["openrouter"], faults.error_in_success(), Reply())
        found = await Caller()(request("openrouter"))
        assert (found.error, found.attempts) == (None, 2)

    async def test_retry_after_is_waited_for(self, vendors):
        vendors.script(MODELS["openai"], faults.rate_limit(retry_after=1), Reply())
        found = await Caller()(request())
        first, second = vendors.seen
        assert (found.error, found.attempts) == (None, 2)
        assert second.at - first.at >= 1

    async def test_a_budget_covers_it_before_it_is_sent(self, vendors):
        vendors.script(MODELS["openai"], then=Reply(usage=Usage(input=40)))
        with spending(Budget(max_calls=1, max_tokens=100)) as budget:
            assert (await Caller()(request(text="x" * 60))).error is None
            refused = await Caller()(request(text="y" * 60))
        assert budget.tokens == 40, "no output is set aside for it"
        assert refused.error is not None
        assert refused.error.kind == "budget"
        assert vendors.count(kind="embeddings") == 1

    async def test_who_has_no_embeddings_is_named_before_any_call(self, vendors):
        members, model = [ModelName("openai", "one")], ModelName("anthropic", "claude-haiku-4-5")
        with pytest.raises(ConfigurationError, match="embedding_model: anthropic has no embeddings: name a model of"):
            await check_models(members, model)
        with pytest.raises(ConfigurationError, match="unknown provider 'nobody'"):
            await check_models(members, ModelName("nobody", "m"))
        await check_models(members, ModelName("openai", "text-embedding-3-small"))
        found = await Caller()(request("anthropic"))
        assert found.error is not None
        assert "no embeddings" in found.error.message
        assert not vendors.seen


@pytest.mark.parametrize("name", ["text-embedding-3-small", "openai/e:2", "OpenAI/e"])
def test_the_model_must_be_one(name):
    with pytest.raises(ValueError, match="embedding_model"):
        PreferConfig.model_validate({"members": ["openai/a", "openai/b"], "embedding_model": name})


# The local model.

try:
    gguf_path("smollm2")
    MISSING = ""
except LocalModelError as missing:
    MISSING = str(missing)


@pytest.mark.skipif(bool(MISSING), reason=f"{MISSING}; {INSTALL_HINT}")
class TestLocal:
    pytestmark = calls

    async def test_paraphrases_are_nearer_than_what_is_worded_alike(self, prefect_server):
        texts = ["Paris is the capital of France.", "The capital city of France is Paris.", "Bananas are yellow fruit."]
        found = [await Caller()(request("local", text, model="smollm2", timeout=60.0)) for text in texts]
        assert [one.error for one in found] == [None] * 3
        vectors = [one.embedding for one in found]
        assert all(len(vector or ()) == 576 for vector in vectors)
        near = Likeness("embedding:local/smollm2", dict(zip(texts, vectors, strict=True)))  # type: ignore[arg-type]
        assert near.between(texts[0], texts[1]) > 0.9 > near.between(texts[0], texts[2])
        assert near.between(texts[0], texts[1]) > LEXICAL.between(texts[0], texts[1])
        assert json.dumps(found[0].model_dump())

    async def test_it_chats_beside_it(self, prefect_server):
        chat = Request(
            provider="local",
            model="smollm2",
            messages=(Message(role="user", content="What is the capital of France? One word."),),
            sampling={"temperature": 0, "max_output_tokens": 24},  # type: ignore[arg-type]
        )
        before = await Caller()(chat)
        await Caller()(request("local", "Paris", model="smollm2", timeout=60.0))
        after = await Caller(fresh=True)(chat)
        assert before.answered
        assert before.text == after.text

    async def test_a_text_that_is_too_long_is_said_to_be(self, prefect_server):
        found = await Caller()(request("local", "one two " * 2500, model="smollm2", timeout=60.0))
        assert found.error is not None
        assert (found.error.kind, found.attempts) == ("context_length", 1)
