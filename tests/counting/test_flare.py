"""Flare's files: both generations of its input, the path of every mistake, and its output's shape."""

import copy
import json

import pytest

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import CallError, Iteration, Record, Response, Synthesis
from consensus_flows.tasks.reports.flare import FlareModel, document, name_of, read_input

SETTINGS = {"max_tokens": 200, "temperature": 0.7}
OLDER = {
    "models": [
        {"id": "qwen/qwen-vl-plus:free", **SETTINGS},
        {"id": "meta-llama/llama-3.2-3b-instruct:free", "max_tokens": 100, "temperature": 0.1},
        {"id": "qwen/qwen-vl-plus:free", "max_tokens": 300, "temperature": 1.0},
    ],
    "initial_conversation": [
        {"role": "system", "content": "You are a sage."},
        {"role": "user", "content": "What is consensus?"},
    ],
    "aggregator": [
        {
            "model": {"id": "meta-llama/llama-3.2-3b-instruct:free", **SETTINGS},
            "aggregator_context": [{"role": "system", "content": "Be objective."}],
            "aggregator_prompt": [{"role": "user", "content": "Merge them."}],
        }
    ],
    "aggregated_prompt_type": "system",
    "improvement_prompt": "Improve it.",
    "iterations": 2,
}


def without(*names):
    return {name: value for name, value in OLDER.items() if name not in names}


def changed(path, value):
    file = copy.deepcopy(OLDER)
    *way, last = path
    holder = file
    for part in way:
        holder = holder[part]
    holder[last] = value
    return file


def test_the_older_generation_as_it_is():
    run = read_input(json.dumps(OLDER))
    config = ConsensusLearningConfig.model_validate(run.settings)
    assert run.question == "What is consensus?"
    assert run.conversation == (Message(role="system", content="You are a sage."),)
    assert [str(member) for member in config.panel()] == [
        "openrouter/qwen/qwen-vl-plus:free#1",
        "openrouter/meta-llama/llama-3.2-3b-instruct:free#1",
        "openrouter/qwen/qwen-vl-plus:free#2",
    ]
    sampled = [config.settings_of(member) for member in config.panel()]
    assert [(one.max_output_tokens, one.temperature) for one in sampled] == [(200, 0.7), (100, 0.1), (300, 1.0)]
    assert config.aggregator == "openrouter/meta-llama/llama-3.2-3b-instruct:free"
    assert config.aggregator_settings.max_output_tokens == 200
    assert config.aggregator_context[0].content == "Be objective."
    assert config.aggregator_prompt[0].content == "Merge them."
    assert (config.approach, config.iterations, config.aggregated_prompt_type) == ("centralized_llm", 2, "system")
    assert config.improvement_prompt == "Improve it."


def test_the_newer_generation_has_no_question_and_defaults():
    file = without("initial_conversation", "aggregated_prompt_type", "improvement_prompt", "iterations")
    run = read_input(json.dumps(file | {"aggregator": OLDER["aggregator"][0] | {"approach": "medoid"}}))
    assert (run.question, run.conversation) == (None, ())
    assert (run.settings["aggregated_prompt_type"], run.settings["iterations"]) == ("system", 1)
    assert run.settings["approach"] == "medoid"


def test_earlier_turns_stay_before_the_question():
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "And now?"},
        {"role": "system", "content": "Late instruction."},
    ]
    run = read_input(json.dumps(OLDER | {"initial_conversation": turns}))
    assert run.question == "And now?"
    assert [message.role for message in run.conversation] == ["user", "assistant", "system"]


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("openai/gpt-4o", "openrouter/openai/gpt-4o"),
        ("anthropic/claude-3.5-sonnet:beta", "openrouter/anthropic/claude-3.5-sonnet:beta"),
        ("openrouter/auto", "openrouter/openrouter/auto"),
        ("openrouter/openai/gpt-4o", "openrouter/openai/gpt-4o"),
        ("huggingface/meta-llama/llama-3.2", "huggingface/meta-llama/llama-3.2"),
        ("local/smollm2", "local/smollm2"),
        ("my-server/llama3", "my-server/llama3"),
        ("other-server/llama3", "openrouter/other-server/llama3"),
        ("somebody/model:3", "openrouter/somebody/model:3:1"),
    ],
)
def test_ids_are_openrouters_unless_they_name_a_provider(id, name):
    # A saved block may bear a vendor's name: the vendor's ids at OpenRouter are OpenRouter's all the same.
    assert name_of(FlareModel(id=id), {"my-server", "openai"}) == name


def test_a_provider_may_be_said_outright():
    assert name_of(FlareModel(id="gpt-4o", provider="openai")) == "openai/gpt-4o"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (without("models"), "models: is missing"),
        (without("aggregator"), "aggregator: is missing"),
        (OLDER | {"aggregator": {}}, "aggregator.model: is missing"),
        (OLDER | {"aggregator": []}, "aggregator: is a list of 0"),
        (OLDER | {"aggregator": OLDER["aggregator"] * 2}, "aggregator: is a list of 2"),
        (changed(["aggregator", 0, "approach"], "embedding"), "aggregator.approach: Input should be 'centralized_llm'"),
        (changed(["aggregator", 0, "model"], {"id": ""}), "aggregator.model.id: "),
        (changed(["models", 1, "temperature"], 3), "models[1].temperature: "),
        (changed(["models", 1, "max_tokens"], "many"), "models[1].max_tokens: "),
        (changed(["models", 0], {"max_tokens": 5}), "models[0].id: is missing"),
        (changed(["models", 0, "temprature"], 5), "models[0].temprature: unknown field"),
        (changed(["models", 0, "provider"], "No Good"), "models[0].id: "),
        (OLDER | {"iterations": -1}, "iterations: "),
        (OLDER | {"aggregated_prompt_type": "tool"}, "aggregated_prompt_type: "),
        (changed(["initial_conversation", 1, "role"], "robot"), "initial_conversation[1].role: "),
        (OLDER | {"initial_conversation": [{"role": "assistant", "content": "x"}]}, "initial_conversation: the last"),
        (
            changed(["aggregator", 0, "aggregator_prompt"], [{"role": "assistant", "content": "x"}]),
            "aggregator.aggregator_prompt: the last turn",
        ),
    ],
)
def test_a_mistake_is_named_by_its_path(file, said):
    with pytest.raises(ConfigurationError) as caught:
        read_input(json.dumps(file))
    assert caught.value.message.startswith(said)


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_what_is_no_such_file(text):
    with pytest.raises(ConfigurationError, match=r"not valid JSON|this "):
        read_input(text)


def answer(model, instance, text, provider="openrouter"):
    member = f"{provider}/{model}#{instance}"
    response = Response(member=member, provider=provider, model=model, instance=instance, text=text)
    if text is None:
        response.error = CallError(kind="server", message="it broke")
    return response


def test_the_shape_of_the_output():
    responses = [
        answer("q/x:free", 1, "a"),
        answer("q/x:free", 2, "b"),
        answer("m/y", 1, None),
        answer("s", 1, "c", "local"),
    ]
    record = Record(
        flow="consensus-learning",
        prompt="Why?",
        answer="S",
        iterations=[
            Iteration(number=1, responses=responses, synthesis=Synthesis(text="R")),
            Iteration(number=2, responses=responses[:2], synthesis=Synthesis(text="S")),
        ],
    )
    assert document(record, "Be brief.", [Message(role="user", content="Hi")]) == {
        "initial_conversation": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "user", "content": "Why?"},
        ],
        "iteration_0": {"q/x:free#1": "a", "q/x:free#2": "b", "local/s": "c"},
        "failed_0": {"m/y": "it broke"},
        "aggregate_0": "R",
        "iteration_1": {"q/x:free#1": "a", "q/x:free#2": "b"},
        "aggregate_1": "S",
    }
