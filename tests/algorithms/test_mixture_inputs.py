"""Mixture of agents over recorded answers and over lists of queries, from Python and from the command line."""

import json

import pytest

from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.deployments.commands.algorithms.query_files import read_queries, read_references
from consensus_flows.deployments.terminal import Stop
from consensus_flows.flows.mixture_of_agents import mixture_of_agents, run_mixture_of_agents
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.reports.recorded import Recorded, numbered, recorded_for
from tests.kits.command_kit import commands
from tests.kits.consortium_kit import asked, say
from tests.kits.kinds import kinds
from tests.kits.mixture_kit import answers_of, config
from tests.vendors import Reply, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    # Most tests call the algorithm without the flow around it, where Prefect has nowhere to send its logs.
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]


async def test_recorded_answers_stand_in_for_a_layer(vendors):
    recorded = Recorded(answers={"openai/gpt-old": "alpha", "Ada": "beta", "lost#2": None})
    record = await mixture_of_agents("What?", config("openai/c"), reference=[recorded])
    assert set(answers_of(asked(vendors, "c")[0])) == {"alpha", "beta"}
    first = record.iterations[0].responses
    assert [(r.member, r.provider, r.recorded, r.attempts) for r in first] == [
        ("openai/gpt-old", "openai", True, 0),
        ("Ada", "reference", True, 0),
        ("lost#2", "reference", True, 0),
    ]
    assert kinds(record) == [("empty", "lost#2", 1)]
    assert (record.calls, vendors.count(), len(record.iterations)) == (2, 2, 3)
    # Without any layer of models the aggregator sees them at once.
    alone = MixtureOfAgentsConfig(aggregator="openai/final")
    await run_mixture_of_agents("What?", alone, reference=Recorded(answers=numbered(["one", "two"])))
    assert set(answers_of(asked(vendors, "final")[-1])) == {"one", "two"}


def test_recorded_answers_are_found_by_their_question():
    mine, yours = Recorded(prompt="Why?", answers={"a": "x"}), Recorded(prompt="How?", answers={"a": "y"})
    anything = Recorded(answers={"a": "z"})
    assert recorded_for(["How? ", "Why?"], [mine, yours]) == [yours, mine]
    assert recorded_for(["What?"], [mine, anything]) == [anything]
    assert recorded_for(["What?", "Why?"], []) == [None, None]
    for prompts, references, told in (
        (["What?"], [mine], r"no answers are recorded for 'What\?'"),
        (["Why?", "What?"], [mine, anything], "each needs answers recorded with its own `prompt`"),
        (["Why?"], [mine, mine], "2 sets of answers"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            recorded_for(prompts, references)


@pytest.fixture
def consensus(vendors, monkeypatch, capsys):
    return commands(monkeypatch, capsys)


LAYERS = ("--layer", "openai/a,openai/b", "--layer", "openai/c,openai/d", "--final", "openai/final")


def test_the_command_answers_on_stdout_and_tells_the_rest_on_stderr(consensus, vendors):
    say(vendors, final="the answer")
    vendors.script("d", then=faults.bad_request("no such thing"))
    code, out, err = consensus("moa", "What?", *LAYERS, "--quorum", "1")
    assert (code, out) == (0, "the answer\n")
    for text in ("Layer 1: 2 of 2 answered", "Layer 2: 1 of 2", "openai/final", "! layer 2: openai/d#1: bad_request"):
        assert text in err
    assert "/runs/flow-run/" in err


def test_json_and_output_hold_the_whole_record(consensus, vendors, tmp_path):
    say(vendors, final="the answer")
    file = tmp_path / "record.json"
    code, out, err = consensus(
        "moa", "What?", *LAYERS, "--temperature", "0.5", "--final-temperature", "0", "--json", "--output", str(file)
    )
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert record == json.loads(file.read_text())
    assert (record["flow"], record["answer"], record["calls"]) == ("mixture-of-agents", "the answer", 5)
    assert len(record["iterations"]) == 3
    assert record["iterations"][-1]["synthesis"]["text"] == "the answer"
    assert asked(vendors, "a")[0].params["temperature"] == 0.5
    assert asked(vendors, "final")[0].params["temperature"] == 0


def test_self_moa_from_the_command_line(consensus, vendors):
    code, out, _ = consensus(
        "moa", "What?", "--self-moa", "openai/a", "--samples", "5", "--window", "3", "--reserved", "2", "--json"
    )
    record = json.loads(out)
    assert (code, record["calls"], vendors.count("a")) == (0, 5 + 3, 8)


def test_queries_and_references_from_files(consensus, vendors, tmp_path):
    vendors.script("final", then=Reply(text=lambda seen: f"answer to {seen.prompt.split()[0]}"))
    queries, reference = tmp_path / "queries.txt", tmp_path / "reference.jsonl"
    queries.write_text("One?\n\nTwo?\n")
    lines = [{"prompt": "One?", "answers": ["x", "y"]}, {"prompt": "Two?", "answers": {"openai/z": "z"}}]
    reference.write_text("\n".join(map(json.dumps, lines)))
    given = ("moa", "--queries", str(queries), "--reference", str(reference), "--final", "openai/final")
    code, out, err = consensus(*given)
    assert (code, vendors.count()) == (0, 2)
    assert out == "## One?\n\nanswer to One?\n\n## Two?\n\nanswer to Two?\n\n"
    assert "2/2" in err
    code, out, err = consensus(*given, "--json")
    records = json.loads(out)
    assert (code, err, vendors.count()) == (0, "", 2)
    assert [record["cached_calls"] for record in records] == [1, 1]
    assert [r["recorded"] for r in records[0]["iterations"][0]["responses"]] == [True, True]
    vendors.script("a", then=faults.unauthorized())
    code, out, err = consensus("moa", "--queries", str(queries), "--layer", "openai/a", "--final", "openai/final")
    assert (code, "✗ 2/2" in err, err.count("auth: HTTP 401") >= 2) == (1, True, True)


def test_queries_are_one_run_with_one_budget_and_one_that_fails_does_not_end_the_others(consensus, vendors, tmp_path):
    vendors.script("a", then=lambda seen: faults.unauthorized() if "Bad" in seen.prompt else Reply(text=seen.prompt))
    vendors.script("final", then=Reply(text=lambda seen: f"answer to {seen.prompt.split()[0]}"))
    queries = tmp_path / "queries.json"
    queries.write_text(json.dumps(["One?", "Bad?", "Three?"]))
    given = ("moa", "--queries", str(queries), "--layer", "openai/a", "--final", "openai/final", "--json")
    code, out, _ = consensus(*given)
    records = json.loads(out)
    assert (code, [(one["prompt"], one["answer"], one["status"]) for one in records]) == (
        1,
        [("One?", "answer to One?", "finished"), ("Bad?", None, "failed"), ("Three?", "answer to Three?", "finished")],
    )
    assert len({one["flow_run_id"] for one in records}) == 1
    vendors.reset()
    queries.write_text(json.dumps(["Four?", "Five?"]))
    code, out, _ = consensus(*given, "--max-calls", "3")
    assert (code, vendors.count()) == (3, 3)
    assert sorted(one["status"] for one in json.loads(out)) == ["budget", "finished"]
    vendors.script("a", then=faults.unauthorized())
    queries.write_text(json.dumps(["Bad?", "Bad 2?"]))
    code, out, _ = consensus(*given)
    assert (code, [one["status"] for one in json.loads(out)]) == (1, ["failed", "failed"])


def test_recorded_answers_are_a_column_of_a_batch(consensus, vendors, tmp_path):
    vendors.script("final", then=Reply(text=lambda seen: f"answer to {seen.prompt.split()[0]}"))
    source, output, records = tmp_path / "rows.jsonl", tmp_path / "out.jsonl", tmp_path / "records"
    rows = [{"id": "a/1", "prompt": "One?", "answers": ["x", "y"]}, {"id": "b", "prompt": "Two?", "answers": 3}]
    source.write_text("\n".join(map(json.dumps, rows)))
    given = ("batch", str(source), "--flow", "moa", "--output", str(output), "--records", str(records))
    recorded = ("--layer", "openai/b", "--final", "openai/final", "--reference-column", "answers")
    code, _, _ = consensus(*given, *recorded)
    (one, two) = map(json.loads, output.read_text().splitlines())
    assert (code, one["answer"], two["status"]) == (1, "answer to One?", "failed")
    assert "recorded answers are a list of texts" in two["error"]
    assert sorted(path.name for path in records.iterdir()) == ["a%2F1.json", "b.json"]
    record = json.loads((records / "a%2F1.json").read_text())
    assert [r["recorded"] for r in record["iterations"][0]["responses"]] == [True, True]
    assert set(answers_of(asked(vendors, "b")[0])) == {"x", "y"}
    code, _, err = consensus("batch", str(source), "--flow", "pump", "-m", "openai/b", "-o", str(output), *recorded[4:])
    assert (code, "reference_column" in err or "--reference-column" in err) == (2, True)


def test_a_saved_configuration_is_run_by_name(consensus, vendors, tmp_path):
    say(vendors, final="the answer")
    prompt = tmp_path / "final.txt"
    prompt.write_text("End it.")
    assert consensus("save", "mix", "--flow", "moa", *LAYERS, "--final-prompt", str(prompt))[0] == 0
    assert consensus("moa", "What?", "--name", "mix", "--raw")[:2] == (0, "the answer\n")
    assert consensus("What?", "--name", "mix", "--raw")[:2] == (0, "the answer\n")
    assert vendors.count() == 5, "the second run is taken from the cache"
    assert asked(vendors, "final")[0].system == "End it."
    assert consensus("moa", "What?", "--name", "mix", "--self-moa", "openai/e", "--samples", "2", "--raw")[0] == 0
    assert vendors.count("e") == 2
    assert consensus("remove", "mix")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["What?"], "--layer"),
        (["What?", "--layer", "openai/a"], "--final"),
        (["What?", "--layer", "openai/a", "--final", "openai/e:2"], "count"),
        (["What?", "--layer", "openai/a,nobody", "--final", "openai/e"], "provider/model"),
        (["What?", "--layer", "nowhere/a", "--final", "openai/e"], "nowhere"),
        (["What?", "--layer", "openai/a", "--final", "openai/e", "--quorum", "2"], "quorum"),
        (["What?", "--layer", "openai/a", "--self-moa", "openai/b"], "self_moa"),
        (["What?", *LAYERS, "--window", "1"], "--window"),
        (["What?", *LAYERS, "--reference", "/nowhere.json"], "--reference"),
        (["What?", "--queries", "/nowhere.txt", *LAYERS], "--queries"),
        (["--queries", "/nowhere.txt", *LAYERS], "--queries"),
        (["What?", *LAYERS, "--initial-prompt", "/nowhere.txt"], "--initial-prompt"),
        (["What?", "--name", "never-saved"], "never-saved"),
    ],
)
def test_bad_input_is_exit_2_names_the_field_and_calls_nobody(consensus, vendors, arguments, named):
    code, out, err = consensus("moa", *arguments)
    assert (code, out) == (2, ""), err
    assert named in err
    assert vendors.count() == 0


def test_files_of_recorded_answers(tmp_path):
    def read(*contents):
        paths = []
        for number, content in enumerate(contents):
            paths.append(tmp_path / f"{number}.json")
            paths[-1].write_text(content if isinstance(content, str) else json.dumps(content))
        return [(one.prompt, one.answers) for one in read_references(paths)]

    two = {"reference#1": "x", "reference#2": None}
    assert read(["x", None]) == [(None, two)]
    assert read(["x"], [None]) == [(None, two)]
    assert read({"ann": "x", "bob": "y"}) == [(None, {"ann": "x", "bob": "y"})]
    assert read({"prompt": "Why?", "answers": ["x", None]}) == [("Why?", two)]
    evaluated = [{"instruction": "Why?", "output": name, "generator": name, "dataset": "d"} for name in "ab"]
    assert read([evaluated[0]], [evaluated[1]]) == [("Why?", {"a": "a", "b": "b"})]
    responses = [{"member": "m#1", "text": "x", "error": None}, {"member": "m#2", "text": "y", "error": {"kind": "k"}}]
    assert read({"prompt": "Why?", "iterations": [{"responses": responses}]}) == [("Why?", {"m#1": "x", "m#2": None})]
    for wrong in (
        "{",
        "[]",
        "{}",
        '"x"',
        "[1]",
        '{"ann": 1}',
        '{"answers": ["x"]}',
        '{"prompt": "a", "iterations": 1}',
    ):
        with pytest.raises(Stop, match="--reference"):
            read(wrong)
    with pytest.raises(Stop, match="twice"):
        read({"ann": "x"}, {"ann": "y"})


def test_files_of_queries(tmp_path):
    file = tmp_path / "queries"
    for content, wanted in (
        ("Why?\n\n How? \n", ["Why?", "How?"]),
        ('["Why?\\nNow.", "How?"]', ["Why?\nNow.", "How?"]),
    ):
        file.write_text(content)
        assert read_queries(file) == wanted
    for wrong in ("[]", "[1]", "[", '[""]', "\n\n"):
        file.write_text(wrong)
        with pytest.raises(Stop, match="--queries"):
            read_queries(file)
