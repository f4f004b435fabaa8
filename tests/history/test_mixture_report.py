"""What a mixture of agents shows in the UI and on the terminal."""

import pytest
from prefect.client.orchestration import get_client

from consensus_flows.deployments.commands.algorithms.layer_view import LayerTable, heading
from consensus_flows.flows.mixture_of_agents import mixture_of_agents, page
from consensus_flows.tasks.record import CallError, Iteration, Response, Synthesis
from consensus_flows.tasks.reports.recorded import Recorded
from tests.kits.consortium_kit import say
from tests.kits.mixture_kit import config
from tests.vendors import faults

NASTY = "```\n# Heading\n<script>x</script> ![i](http://x/y.png)"


def response(name="openai/a#1", text="alpha", **fields):
    return Response(member=name, provider="openai", model="a", text=text, **fields)


def failed(name="openai/b#1"):
    return response(name, None, error=CallError(kind="auth", message="openai/b: auth: HTTP 401"))


async def artifacts(flow_run_id):
    async with get_client() as client:
        body = {"artifacts": {"flow_run_id": {"any_": [str(flow_run_id)]}}, "sort": "CREATED_DESC"}
        return (await client.request("POST", "/artifacts/filter", json=body)).json()


def of_key(found, key):
    return [one for one in found if one["key"] == key]


@pytest.mark.usefixtures("results")
async def test_every_layer_has_artifacts_and_the_run_one_bar(vendors):
    say(vendors, a="alpha", b="beta", final="the answer")
    vendors.script("d", then=faults.bad_request("no such thing"))
    recorded = Recorded(answers={"Ada": "of Ada"})
    record = await mixture_of_agents(
        "What?", config("openai/a,openai/b", "openai/c,openai/d", quorum=1), reference=[recorded]
    )
    found = await artifacts(record.flow_run_id)
    layers = of_key(found, "mixture-of-agents-layer")
    assert [one["description"] for one in layers] == ["Layer 4", "Layer 3", "Layer 2", "Layer 1"]
    assert "the answer" in layers[0]["data"]
    assert "no such thing" in layers[1]["data"]
    assert "recorded earlier" in layers[3]["data"]
    assert len(of_key(found, "mixture-of-agents-calls")) == 4
    (bar,) = of_key(found, "mixture-of-agents-progress")
    assert (float(bar["data"]), bar["description"]) == (100, "Layer 4 of 4")


def test_model_text_is_data():
    iteration = Iteration(
        number=2,
        responses=[response(text=NASTY), failed()],
        synthesis=Synthesis(text=NASTY, arbiter="openai/e", labels={"1": "x"}),
    )
    shown = page(iteration)
    fenced = "\n".join(f"> {line}" for line in [*NASTY.replace("```", "```text").splitlines(), "```"])
    assert shown.count(fenced) == 2
    assert "auth: HTTP 401" in shown


def test_headings_tell_what_came_of_a_layer():
    assert heading(Iteration(number=1, responses=[response(), failed()])) == "Layer 1: 1 of 2 answered, agreement -"
    assert "recorded earlier" in heading(Iteration(number=1, responses=[response(recorded=True)]))
    done = Iteration(number=2, synthesis=Synthesis(text="x", arbiter="openai/e"), judgements=[response()])
    assert heading(done) == "Layer 2: answer by openai/e"
    for arbiter in (None, "openai/e"):
        stand_in = Iteration(number=2, synthesis=Synthesis(text="x", arbiter=arbiter), judgements=[failed()])
        assert heading(stand_in) == "Layer 2: no aggregator could answer"
        assert "stands in" in page(stand_in)


async def test_the_live_table_shows_who_is_asked():
    from rich.console import Console

    def shown():
        console = Console(width=100)
        with console.capture() as captured:
            console.print(table._table())
        return captured.get()

    table = LayerTable([])
    await table.on_event("iterating", Iteration(number=1))
    await table.on_event("asking", ["openai/a#1", "openai/b#1"])
    await table.on_event("answered", response(latency_s=1.0))
    assert "✓" in shown()
    assert "openai/b#1" in shown()
    await table.on_event("asking", ["openai/e#1"])
    assert "openai/b#1" not in shown()
    assert "openai/e#1" in shown()
