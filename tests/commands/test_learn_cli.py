"""`consensus learn`: options, Flare's input files, what is written, and what is refused before any call."""

import json

import pytest

from consensus_flows.blocks.credentials import OpenAICompatibleCredentials
from tests.kits.command_kit import Command, commands
from tests.vendors import LoopbackVendors, Reply, faults

PANEL = ["-m", "openai/a", "-m", "anthropic/b", "-m", "google/c"]
MODEL = {"max_tokens": 200, "temperature": 0.7}
INPUT = {
    "models": [{"id": "q/x:free", **MODEL}, {"id": "q/x:free", **MODEL, "temperature": 0.2}, {"id": "m/y", **MODEL}],
    "initial_conversation": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
    "aggregator": [{"model": {"id": "m/z", **MODEL}, "aggregator_prompt": [{"role": "user", "content": "Merge."}]}],
    "iterations": 1,
}


@pytest.fixture
def consensus(
    results: str,
    vendors: LoopbackVendors,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    return commands(monkeypatch, capsys)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "input.json"

    def write(**changes):
        path.write_text(json.dumps({name: value for name, value in (INPUT | changes).items() if value is not None}))
        return str(path)

    return write


def test_options_reach_the_run(consensus, vendors):
    vendors.script("merger", Reply(text="one"), Reply(text="two"), Reply(text="three"))
    ran = consensus("learn", "What?", *PANEL, "--aggregator", "openai/merger", "--iterations", "2")
    assert (ran.code, ran.out) == (0, "three\n")
    assert "openai/a#1" in ran.err
    ran = consensus(
        *("learn", "Two and two?", *PANEL, "--approach", "decentralized", "--extract", "label:yes,no"),
        *("--k", "2", "--alpha", "0.7", "--beta", "3", "--max-rounds", "4", "--json", "--iterations", "0"),
    )
    record = json.loads(ran.out)
    assert (ran.code, ran.err, record["flow"]) == (0, "", "consensus-learning")
    assert record["calls"] == 3
    assert record["iterations"][0]["settlement"]["rounds"] <= 4


def test_an_input_file_is_run_as_it_is(consensus, vendors, file):
    vendors.script("m/z", Reply(text="merged"), Reply(text="merged again"))
    ran = consensus("learn", "--input", file(), "--json")
    record = json.loads(ran.out)
    assert (ran.code, record["prompt"], record["answer"]) == (0, "Why?", "merged again")
    assert [r["member"] for r in record["iterations"][0]["responses"]] == [
        "openrouter/q/x:free#1",
        "openrouter/q/x:free#2",
        "openrouter/m/y#1",
    ]
    assert all(seen.openrouter for seen in vendors.seen)
    sent = [seen.params for seen in vendors.seen if seen.model == "q/x:free"]
    assert sorted(body["temperature"] for body in sent) == [0.2, 0.2, 0.7, 0.7]
    assert {body["max_tokens"] for body in sent} == {200}
    late = [body["messages"] for body in sent if len(body["messages"]) > 2]
    assert len(late) == 2
    for messages in late:
        assert [turn["role"] for turn in messages] == ["system", "user", "assistant", "user"]
        assert messages[0]["content"].startswith("Be brief.\n\n")
        assert "merged" in messages[0]["content"], "a file that names no role means system, as Flare does"


def test_options_lie_over_the_file(consensus, vendors, file):
    ran = consensus(
        *(
            "learn",
            "--input",
            file(),
            "--iterations",
            "0",
            "--max-output-tokens",
            "900",
            "--aggregator",
            "openai/merger",
        ),
        *("-m", "openai/a", "-m", "openrouter/q/x:free", "--json"),
    )
    record = json.loads(ran.out)
    assert len(record["iterations"]) == 1
    assert vendors.count("merger") == 1
    sent = {seen.model: seen.params for seen in vendors.seen}
    assert (sent["a"]["max_tokens"], "temperature" in sent["a"]) == (900, False)
    assert (sent["q/x:free"]["max_tokens"], sent["q/x:free"]["temperature"]) == (900, 0.7)


def test_flares_own_shape_is_written(consensus, vendors, file, tmp_path):
    vendors.script("m/y", then=faults.bad_request())
    vendors.script("q/x:free", then=Reply(text="mine"))
    vendors.script("m/z", then=Reply(text="merged"))
    target = tmp_path / "out.json"
    arguments = ["learn", "--input", file(), "--output-format", "flare"]
    ran = consensus(*arguments, "--output", str(target))
    assert (ran.code, ran.out) == (0, "merged\n")
    written = json.loads(target.read_text())
    assert json.loads(consensus(*arguments).out) == written, "alone it goes to stdout"
    assert written["initial_conversation"] == INPUT["initial_conversation"]
    assert written["iteration_0"] == {"q/x:free#1": "mine", "q/x:free#2": "mine"}
    assert "bad_request" in written["failed_0"]["m/y"]
    assert (written["aggregate_0"], written["aggregate_1"]) == ("merged", "merged")
    assert "iteration_2" not in written


def test_the_newer_generation_takes_the_prompt_from_the_command(consensus, vendors, file):
    newer = file(initial_conversation=None)
    assert json.loads(consensus("learn", "Where?", "--input", newer, "--json").out)["prompt"] == "Where?"
    assert json.loads(consensus("learn", "--input", newer, "--json", stdin="How?").out)["prompt"] == "How?"


@pytest.mark.parametrize(
    ("changes", "arguments", "said"),
    [
        ({"aggregator": {}}, [], "aggregator.model: is missing"),
        ({"models": [{"id": "a/b", "max_tokens": 0}]}, [], "models[0].max_tokens: "),
        ({}, ["Another question?"], "the question stands in initial_conversation"),
        ({}, ["--name", "x"], "give one of them"),
        ({}, ["--iterations", "-1"], "--iterations: "),
    ],
)
def test_a_file_that_cannot_be_run(consensus, file, changes, arguments, said):
    ran = consensus("learn", "--input", file(**changes), *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_a_file_that_is_none(consensus, tmp_path):
    ran = consensus("learn", "--input", str(tmp_path / "nothing.json"))
    assert (ran.code, "nothing.json cannot be read: No such file" in ran.err) == (2, True)
    (tmp_path / "broken.json").write_bytes(b"{\xff")
    ran = consensus("learn", "--input", str(tmp_path / "broken.json"))
    assert (ran.code, "is not UTF-8" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--aggregator", "openai/x"], "members: give -m"),
        (PANEL, "aggregator: give --aggregator"),
        ([*PANEL, "--approach", "majority", "--extract", "colour"], "--extract: unknown extraction 'colour'"),
        ([*PANEL, "--approach", "medoid", "--alpha", "0.2"], "--alpha: "),
        ([*PANEL, "--aggregator", "openai/x:2"], "--aggregator: "),
    ],
)
def test_options_that_cannot_be_run(consensus, vendors, arguments, said):
    ran = consensus("learn", "What?", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert vendors.count() == 0


def test_a_configuration_is_saved_from_a_file_and_used(consensus, vendors, file):
    assert consensus("save", "sages", "--flow", "learn", "--input", file()).code == 0
    record = json.loads(consensus("learn", "What?", "--name", "sages", "--json").out)
    assert record["calls"] == 8
    assert {seen.system for seen in vendors.seen if seen.model == "m/y" and len(seen.messages) == 1} == {"Be brief."}
    # The main command runs it too, whatever its kind.
    assert json.loads(consensus("What?", "--name", "sages", "--json").out)["cached_calls"] == 8


def test_a_saved_provider_may_be_named_in_a_file(consensus, vendors, file):
    OpenAICompatibleCredentials(api_key="sk-mine", base_url=vendors.openai_url).save("mine", overwrite=True)
    models = [{"id": "mine/m1", **MODEL}, {"id": "openai/m2", **MODEL}]
    record = json.loads(consensus("learn", "--input", file(models=models, iterations=0), "--json").out)
    assert [r["member"] for r in record["iterations"][0]["responses"]] == ["mine/m1#1", "openrouter/openai/m2#1"]
