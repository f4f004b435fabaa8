"""The form of the Run button: a drop-down of what is saved."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError

from consensus_flows.deployments.run_form import TAG, form_of
from consensus_flows.flows.batch import batch
from consensus_flows.flows.vote import vote
from tests.kits.command_kit import Command, commands
from tests.vendors import LoopbackVendors

KINDS = [{"$ref": "#/definitions/VoteConfig"}, {"type": "string"}, {"type": "null"}]
TYPED = {"title": "Name", "type": "string"}


@pytest.fixture
def consensus(results: str, vendors: LoopbackVendors, monkeypatch, capsys) -> Command:
    return commands(monkeypatch, capsys)


@pytest.fixture
def deployed(prefect_server) -> Iterator[dict[str, UUID]]:
    async def make() -> dict[str, UUID]:
        return {
            flow.name: await (await flow.ato_deployment("of-the-form", tags=[TAG])).aapply() for flow in (vote, batch)
        }

    made = asyncio.run(make())
    yield made
    with get_client(sync_client=True) as client:
        for key in made.values():
            client.delete_deployment(key)


def test_saved_configurations_come_first_and_internals_are_left_out():
    schema: dict[str, Any] = {
        "title": "Parameters",
        "properties": {"config": {"anyOf": KINDS}, "shard": {}, "limit": {}},
    }
    form = form_of(schema, ["a", "b"])
    saved = {"title": "Saved", "type": "string", "enum": ["a", "b"]}
    assert form == {
        "title": "Parameters",
        "properties": {"config": {"anyOf": [saved, TYPED, KINDS[0], KINDS[2]]}, "limit": {}},
    }
    assert form_of(form, ["a", "b"]) == form
    assert form_of(form, [])["properties"]["config"]["anyOf"] == [TYPED, KINDS[0], KINDS[2]]


def test_a_flow_that_takes_no_name_keeps_its_form():
    schema = {"properties": {"config": {"$ref": "#/definitions/Settings"}}}
    assert form_of(schema, ["a"]) == schema


def test_what_is_saved_and_removed_is_in_the_form_at_once(consensus, deployed):
    def offered(flow: str) -> list[str]:
        with get_client(sync_client=True) as client:
            form = client.read_deployment(deployed[flow]).parameter_openapi_schema["properties"]
        return next((kind["enum"] for kind in form["config"]["anyOf"] if kind.get("title") == "Saved"), [])

    assert consensus("save", "of-form", "--flow", "vote", "-m", "openai/a").code == 0
    assert consensus("save", "other-form", "--flow", "pump", "-m", "openai/a").code == 0
    assert offered("vote") == ["of-form"] and set(offered("batch")) >= {"of-form", "other-form"}
    with get_client(sync_client=True) as client:
        for config in ("of-form", "saved-later", {"members": ["openai/a"]}, None):
            client.create_flow_run_from_deployment(deployed["vote"], parameters={"prompt": "Why?", "config": config})
        with pytest.raises(PrefectHTTPStatusError):
            client.create_flow_run_from_deployment(deployed["vote"], parameters={"prompt": "Why?", "config": 3})
        shard = {"input": "a", "output": "b", "shards": 2, "shard": 1}
        client.create_flow_run_from_deployment(deployed["batch"], parameters=shard)
    for name in ("of-form", "other-form"):
        assert consensus("remove", name).code == 0
    assert offered("vote") == []
