"""Chat completions, with OpenAI's SDK."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.deployments.gateway.chat import Written
from consensus_flows.deployments.gateway.errors import GatewayError
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.watch import Piece
from tests.kits.consortium_kit import asked, judged
from tests.kits.history_kit import rows
from tests.vendors import Reply, faults

QUESTION = [{"role": "user", "content": "Six times seven?"}]


def completed(gateway, **parameters):
    return gateway.client().chat.completions.create(**{"model": "counted", "messages": QUESTION} | parameters)


def streamed(gateway, **parameters):
    return list(completed(gateway, stream=True, **parameters))


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def error_of(call):
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    return caught.value


def test_saved_configurations_are_models(gateway):
    names = [model.id for model in gateway.client().models.list()]
    assert {"counted", "counted:title", "judged", "judged:title"} <= set(names)
    assert gateway.client().models.retrieve("judged").owned_by == "consensus-flows"


def test_a_completion(gateway, vendors, history):
    raw = gateway.client().chat.completions.with_raw_response.create(model="counted", messages=QUESTION)
    done = raw.parse()
    assert done.choices[0].message.content == "42"
    assert (done.choices[0].finish_reason, done.model, done.object) == ("stop", "counted", "chat.completion")
    calls = [call for name in ("one", "two", "three") for call in asked(vendors, name)]
    assert len(calls) == 3
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens > 0
    about = done.consensus
    assert (about["status"], about["flow"], about["failed"]) == ("finished", "vote", [])
    assert about["agreement"] == pytest.approx(0.6667)
    assert raw.headers["x-consensus-run"] == about["run_id"]
    assert about["url"] == f"http://ui/runs/flow-run/{about['run_id']}"
    assert rows(history, "SELECT id, answer FROM runs") == [(about["run_id"], "42")]


def test_the_usage_is_the_sum_of_all_calls(gateway, history):
    done = completed(gateway, model="judged")
    used = rows(history, "SELECT input_tokens, output_tokens FROM calls")
    assert done.usage.prompt_tokens == sum(read for read, _ in used) > 0
    assert done.usage.completion_tokens == sum(wrote for _, wrote in used) > 0
    assert len(used) == done.consensus["calls"] == 4


def test_a_stream(gateway):
    chunks = streamed(gateway, stream_options={"include_usage": True})
    first, *_, finish, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert text_of(chunks) == "42"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices].count("stop") == 1
    assert finish.choices[0].finish_reason == "stop" and finish.consensus["status"] == "finished"
    assert usage.choices == [] and usage.usage.total_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({(chunk.id, chunk.model, chunk.created) for chunk in chunks}) == 1


def test_usage_is_not_streamed_unless_asked_for(gateway):
    assert all(chunk.usage is None and chunk.choices for chunk in streamed(gateway))


def test_progress_is_streamed_as_reasoning(gateway):
    told = [getattr(chunk.choices[0].delta, "reasoning_content", None) for chunk in streamed(gateway)]
    assert sum("✓ openai/" in (line or "") for line in told) == 3
    assert not any(
        hasattr(chunk.choices[0].delta, "reasoning_content")
        for chunk in streamed(gateway, extra_body={"include_reasoning": False})
    )


def test_progress_can_be_turned_off(start):
    quiet = start(progress=False)
    assert not any(hasattr(chunk.choices[0].delta, "reasoning_content") for chunk in streamed(quiet))


def test_the_role_comes_before_the_members_have_answered(gateway, vendors):
    for name in ("one", "two", "three"):
        vendors.script(name, then=Reply(text="42", delay=1.5))
    chunks = completed(gateway, stream=True)
    assert next(chunks).choices[0].delta.role == "assistant"
    seen = [call for name in ("one", "two", "three") for call in asked(vendors, name)]
    assert not any(call.status for call in seen)
    assert text_of(chunks) == "42"


def test_a_long_answer_comes_in_pieces(gateway, vendors):
    answer = " ".join(f"word{number}" for number in range(100))
    vendors.script("arbiter", then=judged(90, answer))
    chunks = streamed(gateway, model="judged")
    assert text_of(chunks) == answer
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks) > 5


def test_earlier_turns_reach_the_members_and_continue_the_conversation(gateway, vendors, history):
    first = completed(gateway)
    messages = [
        *QUESTION,
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "And plus one?"},
    ]
    second = completed(gateway, messages=messages)
    assert [message["role"] for message in asked(vendors, "one")[1].messages] == ["user", "assistant", "user"]
    runs = [first.consensus["run_id"], second.consensus["run_id"]]
    turns = rows(history, "SELECT run_id, conversation_id, parent_id, given FROM turns ORDER BY ended_at")
    assert [turn[0] for turn in turns] == runs
    assert turns[0][1] == turns[1][1] and turns[1][2] == runs[0]
    assert [turn[3] for turn in turns] == [None, None]


def test_instructions_are_the_system_prompt(gateway, vendors):
    completed(gateway, messages=[{"role": "developer", "content": "Be brief."}, *QUESTION])
    assert asked(vendors, "one")[0].system == "Be brief."


def test_sampling_reaches_the_members(gateway, vendors):
    completed(gateway, temperature=0.3, top_p=0.5, max_tokens=77, seed=5)
    params = asked(vendors, "one")[0].params
    assert (params["temperature"], params["top_p"], params["seed"]) == (0.3, 0.5, 5)
    assert 77 in {params.get("max_tokens"), params.get("max_completion_tokens")}


def test_what_has_no_effect_is_named(gateway):
    done = completed(gateway, user="me", frequency_penalty=0.5, presence_penalty=0.5, extra_body={"store": True}, n=1)
    assert done.consensus["ignored"] == ["frequency_penalty", "presence_penalty", "store", "user"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_ends_before_a_stop(gateway, vendors, stream):
    vendors.script("arbiter", then=judged(90, "a b END c " * 30))
    if stream:
        assert text_of(streamed(gateway, model="judged", stop=["END", "zzz"])) == "a b "
    else:
        assert completed(gateway, model="judged", stop="END").choices[0].message.content == "a b "


@pytest.mark.parametrize(
    ("parameters", "status", "param", "code"),
    [
        ({"model": "nobody"}, 404, "model", "model_not_found"),
        ({"n": 2}, 400, "n", "invalid_value"),
        ({"temperature": 9}, 400, "temperature", "invalid_value"),
        ({"messages": []}, 400, "messages", "invalid_value"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages", "unsupported_value"),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]},
            400,
            "messages[0].role",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            400,
            "messages[0].content[0]",
            "unsupported_value",
        ),
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, 400, "tools", "unsupported_value"),
        ({"modalities": ["text", "audio"]}, 400, "modalities[1]", "invalid_value"),
        ({"logprobs": True}, 400, "logprobs", "invalid_value"),
        ({"extra_body": {"consensus": {"fresch": True}}}, 400, "consensus.fresch", "invalid_value"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_call(gateway, vendors, parameters, status, param, code):  # noqa: PLR0917 - a table
    for stream in (False, True):
        error = error_of(lambda stream=stream: completed(gateway, stream=stream, **parameters))
        assert (error.status_code, error.param, error.code) == (status, param, code)
        assert error.type == "invalid_request_error"
        assert error.response.headers["x-should-retry"] == "false"
    assert not vendors.seen


def test_tools_that_must_not_be_called_are_no_obstacle(gateway):
    tools = [{"type": "function", "function": {"name": "x"}}]
    assert completed(gateway, tools=tools, tool_choice="none").choices[0].message.content == "42"


def test_parts_of_text_are_one_text(gateway, vendors):
    parts = [{"type": "text", "text": "Six times "}, {"type": "text", "text": "seven?"}]
    completed(gateway, messages=[{"role": "user", "content": parts}])
    assert asked(vendors, "one")[0].prompt == "Six times seven?"


def test_a_responses_body_is_told_where_it_belongs(gateway):
    body = {"model": "counted", "input": "hi"}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body)
    assert answer.status_code == 400 and "/v1/responses" in answer.json()["error"]["message"]


def test_a_lost_quorum_is_an_error_with_every_cause(gateway, vendors):
    for name in ("one", "two"):
        vendors.script(name, then=faults.unauthorized())
    error = error_of(lambda: completed(gateway))
    assert (error.status_code, error.code, error.type) == (502, "no_answer", "server_error")
    assert "openai/one#1" in error.message and "openai/two#1" in error.message
    assert error.response.headers["x-should-retry"] == "false"
    assert error.response.headers["x-consensus-run"]


def test_an_error_in_the_middle_of_a_stream_is_an_error_object(gateway, vendors):
    for name in ("one", "two"):
        vendors.script(name, then=faults.unauthorized())
    chunks = completed(gateway, stream=True)
    with pytest.raises(openai.APIError) as caught:
        list(chunks)
    assert caught.value.code == "no_answer" and "openai/two#1" in caught.value.message
    body = {"model": "counted", "messages": QUESTION, "stream": True}
    text = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60).text
    assert text.endswith("data: [DONE]\n\n") and '"finish_reason":"stop"' not in text


def test_answers_cut_by_max_tokens_name_the_parameter(gateway, vendors):
    for name in ("one", "two", "three"):
        vendors.script(name, then=faults.truncated())
    error = error_of(lambda: completed(gateway, max_tokens=5))
    assert (error.status_code, error.param) == (400, "max_completion_tokens")


def test_a_member_that_fails_is_named(gateway, vendors):
    vendors.script("three", then=faults.unauthorized())
    about = completed(gateway, messages=[{"role": "user", "content": "Another?"}]).consensus
    assert about["failed"] == [{"member": "openai/three#1", "kind": "auth"}] and about["degraded"]


def test_identical_requests_under_way_are_one_run(gateway, vendors):
    for name in ("one", "two", "three"):
        vendors.script(name, then=Reply(text="42", delay=0.7))
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: completed(gateway), range(3)))
    assert len({one.consensus["run_id"] for one in done}) == 1
    assert len(asked(vendors, "one")) == 1


def test_a_request_that_comes_again_is_not_paid_twice(gateway, vendors):
    first, second = completed(gateway), completed(gateway)
    assert first.consensus["run_id"] != second.consensus["run_id"]
    assert second.consensus["cached_calls"] == 3 and second.usage.total_tokens == 0
    assert len(asked(vendors, "one")) == 1


def test_fresh_answers_are_paid_again_but_not_by_a_retried_request(gateway, vendors):
    fresh = {"extra_body": {"consensus": {"fresh": True}}}
    completed(gateway, **fresh)
    first = completed(gateway, **fresh)
    again = completed(gateway, **fresh, extra_headers={"x-stainless-retry-count": "1"})
    assert again.consensus["run_id"] == first.consensus["run_id"]
    assert len(asked(vendors, "one")) == 2


def test_a_client_that_leaves_does_not_end_the_run(gateway, vendors, history):
    for name in ("one", "two", "three"):
        vendors.script(name, then=Reply(text="42", delay=0.7))
    chunks = completed(gateway, stream=True)
    next(chunks)
    chunks.close()
    deadline = time.monotonic() + 20
    while gateway.app.state.runs.under_way and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rows(history, "SELECT answer FROM runs") == [("42",)]
    assert completed(gateway).consensus["cached_calls"] == 3


def test_a_companion_is_the_first_model_alone(gateway, vendors, history):
    done = completed(gateway, model="judged:title", max_tokens=20)
    assert done.choices[0].message.content == "It is 42."
    assert [len(asked(vendors, name)) for name in ("one", "two", "three", "arbiter")] == [1, 0, 0, 0]
    assert rows(history, "SELECT count(*) FROM turns") == [(0,)]


def test_a_companion_can_be_another_model(start, vendors):
    vendors.script("cheap", then=Reply(text="A title"))
    assert completed(start(title_model="openai/cheap"), model="counted:title").choices[0].message.content == "A title"
    assert not asked(vendors, "one")


SCHEMA = {"type": "object", "properties": {"moons": {"type": "integer"}}, "required": ["moons"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "moons", "schema": SCHEMA}}


def test_a_schema_reaches_members_and_the_arbiters_answer(gateway, vendors):
    for name in ("one", "two", "three"):
        vendors.script(name, then=Reply(text='{"moons": 2}'))
    vendors.script("arbiter", judged(90, ""), then=Reply(text='{"moons": 2}'))
    done = completed(gateway, model="judged", response_format=FORMAT)
    assert json.loads(done.choices[0].message.content) == {"moons": 2}
    for name in ("one", "two", "three"):
        assert list(asked(vendors, name)[0].schema["properties"]) == ["moons"]
    verdict, answer = asked(vendors, "arbiter")
    assert "confidence" in verdict.schema["properties"]
    assert list(answer.schema["properties"]) == ["moons"]


def test_of_a_vote_with_a_schema_the_whole_object_is_the_answer(gateway, vendors):
    for name in ("one", "two", "three"):
        vendors.script(name, then=Reply(text='{"moons": 2}'))
    assert json.loads(text_of(streamed(gateway, response_format=FORMAT))) == {"moons": 2}


def test_a_member_that_writes_no_json_where_it_is_wanted_has_failed(gateway, vendors):
    for name in ("one", "two"):
        vendors.script(name, then=Reply(text='{"moons": 2}'))
    vendors.script("three", then=Reply(text="two"))
    about = completed(gateway, response_format=FORMAT).consensus
    assert about["failed"] == [{"member": "openai/three#1", "kind": "malformed"}]


def test_an_answer_that_is_no_json_object_is_an_error(gateway):
    error = error_of(lambda: completed(gateway, response_format={"type": "json_object"}))
    assert (error.status_code, error.code, error.param) == (502, "not_json", "response_format")


def test_an_answer_that_is_another_one_than_was_streamed_is_an_error():
    written = Written()
    assert written.take(Piece("It is ", "openai/one", 0)) == "It is "
    assert written.take(Piece("42", "openai/one", 6)) == "42"
    assert written.take(Piece("No", "openai/two", 0)) == ""
    assert written.rest(Record(flow="moa", flow_run_id="r", prompt="?", answer="It is 42.")) == "."
    with pytest.raises(GatewayError) as caught:
        written.rest(Record(flow="moa", flow_run_id="r", prompt="?", answer="No."))
    assert (caught.value.code, caught.value.run_id) == ("answer_changed", "r")


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def with_image(text, url=f"data:image/png;base64,{PIXEL}"):
    return {
        "role": "user",
        "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}],
    }


def test_images_reach_members_and_judges(gateway, vendors, history):
    messages = [with_image("What is it?")]
    done = completed(gateway, model="judged", messages=messages)
    calls = [call for name in ("one", "two", "three", "arbiter") for call in asked(vendors, name)]
    assert len(calls) == 4
    for call in calls:
        part, text = call.params["messages"][-1]["content"]
        assert part["image_url"]["url"] == f"data:image/png;base64,{PIXEL}"
        assert "What is it?" in text["text"]
    # The next turn continues the conversation, and has both files.
    messages += [{"role": "assistant", "content": done.choices[0].message.content}, with_image("And this?")]
    completed(gateway, model="judged", messages=messages)
    assert len(rows(history, "SELECT DISTINCT conversation_id FROM turns")) == 1
    turns = asked(vendors, "one")[-1].params["messages"]
    assert [isinstance(turn["content"], list) for turn in turns] == [True, False, True]


def test_files_reach_members_over_responses(gateway, vendors):
    parts = [
        {"type": "input_file", "filename": "notes.txt", "file_data": "data:text/plain;base64,dGhlIG5vdGVz"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"},
        {"type": "input_text", "text": "What do they say?"},
    ]
    gateway.client().responses.create(model="counted", input=[{"role": "user", "content": parts}])
    image, text = asked(vendors, "one")[0].params["messages"][-1]["content"]
    assert image["type"] == "image_url"
    assert text["text"] == "The file notes.txt:\n\n```\nthe notes\n```\n\nWhat do they say?"


def test_the_gateway_fetches_nothing_that_a_client_names(gateway, vendors):
    refused = error_of(lambda: completed(gateway, messages=[with_image("What?", url="http://127.0.0.1:1/metadata")]))
    assert (refused.status_code, refused.code) == (400, "unsupported_value")
    assert refused.param == "messages[0].content[1]"
    assert "nothing is fetched from 127.0.0.1" in refused.message
    assert vendors.count() == 0


async def test_a_graded_panel(gateway, vendors):
    grading = {"model": "openai/grader", "easy": "openai/small"}
    await Vote(config=VoteConfig(members=["openai/one"], extract="number", grading=grading)).save("graded")
    vendors.script("grader", then=Reply(text='{"reason": "", "level": "easy"}'))
    vendors.script("small", then=Reply(text="7"))
    try:
        raw = await asyncio.to_thread(
            gateway.client().chat.completions.with_raw_response.create, model="graded", messages=QUESTION
        )
    finally:
        await Vote.adelete("graded")
    done = raw.parse()
    assert (done.choices[0].message.content, done.consensus["calls"]) == ("7", 2)
    assert raw.headers["x-consensus-run"] == done.consensus["run_id"]
