"""Responses, with OpenAI's SDK."""

import openai
import pytest
from pydantic import BaseModel

from tests.kits.consortium_kit import asked, judged
from tests.kits.history_kit import rows
from tests.vendors import Reply

QUESTION = "Six times seven?"


def made(gateway, **parameters):
    return gateway.client().responses.create(**{"model": "counted", "input": QUESTION} | parameters)


def test_a_response(gateway, vendors, history):
    done = made(gateway)
    assert (done.output_text, done.status, done.model, done.object) == ("42", "completed", "counted", "response")
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens > 0
    assert rows(history, "SELECT id, answer FROM runs") == [(done.id.removeprefix("resp_"), "42")]
    assert done.consensus["status"] == "finished"
    assert all(asked(vendors, name)[0].prompt.endswith(QUESTION) for name in ("one", "two", "three"))


def test_a_stream(gateway):
    with gateway.client().responses.stream(model="judged", input=QUESTION) as stream:
        events = list(stream)
        done = stream.get_final_response()
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert list(dict.fromkeys(kinds)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(deltas) == done.output_text == "the synthesis"
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_messages_instructions_and_settings_reach_the_members(gateway, vendors):
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "user", "content": QUESTION},
    ]
    made(gateway, input=items, instructions="Be brief.", temperature=0.5, max_output_tokens=77)
    seen = asked(vendors, "one")[0]
    told = [(message["role"], message["content"]) for message in seen.messages]
    assert told == [("user", "Hello"), ("assistant", "Hi"), ("user", QUESTION)]
    assert seen.system == "Be brief."
    assert seen.params["temperature"] == 0.5
    assert 77 in seen.params.values()


def test_a_response_follows_another(gateway, vendors, history):
    first = made(gateway, instructions="Be brief.")
    second = made(gateway, input="And eight?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    told = [(message["role"], message["content"]) for message in asked(vendors, "one")[-1].messages]
    assert told == [("user", QUESTION), ("assistant", "42"), ("user", "And eight?")]
    parents = dict(rows(history, "SELECT run_id, parent_id FROM turns"))
    assert parents[second.id.removeprefix("resp_")] == first.id.removeprefix("resp_")


@pytest.mark.parametrize(
    ("parameters", "status", "param"),
    [
        ({"model": "none-such"}, 404, "model"),
        ({"input": []}, 400, "input"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            400,
            "input[0].content[0]",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, 400, "input[0]"),
        ({"tools": [{"type": "web_search"}]}, 400, "tools"),
        ({"text": {"format": {"type": "grammar"}}}, 400, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, 400, "text.format.json_schema.schema"),
        ({"previous_response_id": "resp_none"}, 400, "previous_response_id"),
        ({"background": True}, 400, "background"),
        ({"temperature": 9}, 400, "temperature"),
        ({"max_output_tokens": 0}, 400, "max_output_tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(gateway, vendors, parameters, status, param):
    with pytest.raises(openai.APIStatusError) as caught:
        made(gateway, **parameters)
    assert (caught.value.status_code, caught.value.param) == (status, param)
    assert vendors.count() == 0


class Moons(BaseModel):
    moons: int


@pytest.mark.parametrize("model", ["counted", "judged"])
def test_an_answer_of_a_schema(gateway, vendors, model):
    for name in ("one", "two", "three"):
        vendors.script(name, then=Reply(text='{"moons": 2}'))
    vendors.script("arbiter", judged(90, ""), then=Reply(text='{"moons": 2}'))
    asking = {"model": model, "input": QUESTION, "text_format": Moons}
    done = gateway.client().responses.parse(**asking)
    assert done.output_parsed == Moons(moons=2)
    assert done.text.format.type == "json_schema" and done.text.format.schema_["required"] == ["moons"]
    assert list(asked(vendors, "one")[0].schema["properties"]) == ["moons"]
    with gateway.client().responses.stream(**asking) as stream:
        assert stream.get_final_response().output_parsed == Moons(moons=2)


def test_an_answer_that_is_no_json_object_is_an_error(gateway):
    with pytest.raises(openai.APIStatusError) as caught:
        made(gateway, text={"format": {"type": "json_object"}})
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (502, "not_json", "text.format")


def test_without_an_answer_the_response_fails(gateway, vendors):
    for name in ("one", "two", "three"):
        vendors.script(name, then=Reply(status=401))
    with pytest.raises(openai.InternalServerError) as caught:
        made(gateway)
    assert (caught.value.status_code, caught.value.code) == (502, "no_answer")
    *_, last = list(made(gateway, stream=True, input="Again?"))
    assert (last.type, last.response.status, last.response.error.code) == ("response.failed", "failed", "no_answer")
