"""Options over a saved configuration and over a file: none is dropped, and what cannot be used is refused by name."""

import asyncio
import json

import pytest
from prefect.client.orchestration import get_client

from consensus_flows.tasks.calls import providers
from tests.kits.command_kit import Command, commands
from tests.kits.consortium_kit import asked, judged, say
from tests.vendors import LoopbackVendors

VOTERS = ["-m", "openai/one", "-m", "openai/two", "-m", "openai/three"]
OTHERS = {
    "consensus-learning": [*VOTERS, "--aggregator", "openai/one"],
    "mixture-of-agents": ["--layer", "openai/one,openai/two", "--final", "openai/three"],
    "vote": VOTERS,
    "pump": VOTERS,
    "prefer": VOTERS,
}


@pytest.fixture
def consensus(results: str, vendors: LoopbackVendors, monkeypatch, capsys) -> Command:
    say(vendors, one="7", two="7", three="8")
    vendors.script("arbiter", then=judged(90, "7"))
    return commands(monkeypatch, capsys)


@pytest.fixture
def night(consensus: Command):
    """Saves a configuration as `night` and removes it in the end."""
    saved = []

    def save(*arguments: str) -> None:
        assert consensus("save", "night", *arguments).code == 0
        saved.append(True)

    yield save
    if saved:
        assert consensus("remove", "night").code == 0


@pytest.fixture
def nothing_saved(results: str) -> None:
    """Removes what other tests have saved: they have a server in common."""

    async def remove_all() -> None:
        async with get_client() as client:
            for document in await client.read_block_documents(limit=200):
                if document.is_anonymous is False and document.name is not None:
                    await client.delete_block_document(document.id)

    asyncio.run(remove_all())
    providers._saved.clear()


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("command", [(), ("chat",)], ids=["ask", "chat"])
def test_a_limit_holds_whatever_flow_was_saved(kind, command, consensus, night, vendors):
    night("--flow", kind, *OTHERS[kind])
    prompt, stdin = ([], "How many?\n") if command else (["How many?"], "")
    ran = consensus(*command, *prompt, "--name", "night", "--max-calls", "1", "--temperature", "0.3", stdin=stdin)
    assert vendors.count() == 1, ran.err
    assert [seen.params["temperature"] for seen in vendors.seen] == [0.3]
    if not command:
        assert ran.code in {1, 3}


def test_other_members_are_asked_in_place_of_those_saved(consensus, night, vendors, tmp_path):
    night("--flow", "vote", *VOTERS, "--extract", "number")
    ran = consensus("How many?", "--name", "night", "-m", "openai/three:2", "--raw")
    assert (ran.code, ran.out, vendors.count()) == (0, "8\n", 2)
    (tmp_path / "rows.txt").write_text("How many?\n")
    out = tmp_path / "out.jsonl"
    ran = consensus("batch", tmp_path / "rows.txt", "-o", out, "--name", "night", "-m", "openai/three")
    assert ran.code == 0, ran.err
    assert json.loads(out.read_text())["answer"] == "8"


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("vote", ["--arbiter", "openai/arbiter", "--max-iterations", "2"], "--arbiter, --max-iterations"),
        ("mixture-of-agents", ["-m", "openai/one"], "-m"),
        ("pump", ["--confidence-threshold", "0.5"], "--confidence-threshold"),
    ],
)
@pytest.mark.parametrize("command", [(), ("chat",)], ids=["ask", "chat"])
def test_options_that_the_saved_flow_does_not_have_are_named(  # noqa: PLR0917 - fixtures
    kind, options, named, command, consensus, night, vendors
):
    night("--flow", kind, *OTHERS[kind])
    prompt, stdin = ([], "How many?\n") if command else (["How many?"], "")
    ran = consensus(*command, *prompt, "--name", "night", *options, stdin=stdin)
    assert ran.code == 2
    assert f"{named}: 'night' is saved for {kind}" in ran.err
    assert vendors.count() == 0


def test_an_option_that_the_saved_flow_of_a_batch_does_not_have_is_named(consensus, night, vendors, tmp_path):
    night("--flow", "moa", *OTHERS["mixture-of-agents"])
    (tmp_path / "rows.txt").write_text("How many?\n")
    ran = consensus("batch", tmp_path / "rows.txt", "-o", tmp_path / "out.jsonl", "--name", "night", "-m", "openai/one")
    assert (ran.code, vendors.count()) == (2, 0)
    assert "-m: 'night' is saved for mixture-of-agents" in ran.err


def test_a_file_over_what_is_saved_keeps_the_rest_of_a_group(consensus, night, vendors, tmp_path):
    night("--flow", "pump", *VOTERS, "--max-calls", "1", "--max-output-tokens", "64")
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"budget": {"max_tokens": 100_000}, "sampling": {"temperature": 0, "extra": {"a": 1}}}))
    consensus("pump", "How many?", "--name", "night", "--config", file)
    (seen,) = vendors.seen
    assert (seen.params["temperature"], seen.params["a"]) == (0, 1)
    # Which of the two names it is depends on what this server has refused before.
    assert 64 in (seen.params.get("max_completion_tokens"), seen.params.get("max_tokens"))


def test_groups_are_laid_over_each_other_key_by_key(tmp_path):
    from consensus_flows.blocks.vote import VoteConfig
    from consensus_flows.deployments.options import settings

    saved = {
        "members": ["openai/one"],
        "budget": {"max_cost_usd": 1.0, "max_calls": 9},
        "sampling": {"max_output_tokens": 64, "extra": {"a": 1, "b": 1}},
        "weights": {"openai/one": 2},
    }
    file = tmp_path / "settings.toml"
    file.write_text(
        'members = ["openai/two"]\n[budget]\nmax_calls = 5\n[sampling]\ntemperature = 0\nextra = {b = 2}\n'
        '[weights]\n"openai/two" = 3\n'
    )
    assert settings(VoteConfig, {"config": file, "budget": {"max_tokens": 7}}, saved) == {
        "members": ["openai/two"],
        "budget": {"max_cost_usd": 1.0, "max_calls": 5, "max_tokens": 7},
        "sampling": {"max_output_tokens": 64, "temperature": 0, "extra": {"a": 1, "b": 2}},
        "weights": {"openai/two": 3},
    }


@pytest.mark.parametrize("options", [[], ["--max-cost", "1", "--temperature", "0.1"]], ids=["alone", "under-options"])
@pytest.mark.parametrize("value", [None, 3, "x", [1]])
@pytest.mark.parametrize("field", ["budget", "sampling"])
def test_what_is_no_group_in_a_file_is_named(  # noqa: PLR0917 - fixtures
    field, value, options, consensus, vendors, tmp_path
):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"members": ["openai/one"], field: value}))
    ran = consensus("pump", "How many?", "--config", file, *options)
    assert (ran.code, vendors.count()) == (2, 0), ran.err
    assert f"{field}: Input should be" in ran.err


def test_an_instruction_given_as_an_option_lies_over_the_file(consensus, vendors, tmp_path):
    (tmp_path / "final.md").write_text("Written on the command line.")
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"prompts": {"final": "Written in the file.", "initial": "Be brief."}}))
    ran = consensus(
        "moa",
        "How many?",
        *OTHERS["mixture-of-agents"],
        "--config",
        file,
        "--final-prompt",
        tmp_path / "final.md",
        "--raw",
    )
    assert ran.code == 0, ran.err
    (last,) = asked(vendors, "three")
    text = json.dumps(last.messages) + str(last.system)
    assert "Written on the command line." in text and "Written in the file." not in text
    assert "Be brief." in json.dumps(asked(vendors, "one")[0].messages) + str(asked(vendors, "one")[0].system)


def test_another_approach_does_without_the_aggregator_that_was_saved(consensus, night, vendors):
    night("--flow", "learn", *OTHERS["consensus-learning"], "--iterations", "0")
    ran = consensus("learn", "How many?", "--name", "night", "--approach", "majority", "--extract", "number", "--raw")
    assert (ran.code, ran.out, vendors.count()) == (0, "7\n", 3), ran.err
    # But one that is given beside it is refused.
    ran = consensus("learn", "How many?", "--name", "night", "--approach", "majority", "--aggregator", "openai/one")
    assert (ran.code, vendors.count()) == (2, 3)
    assert "aggregator: not used by the approach majority" in ran.err


def test_a_judge_of_pairs_does_without_the_count_that_was_saved(consensus, night, monkeypatch):
    from consensus_flows.deployments import algorithm_commands

    seen = []
    night("--flow", "vote", *VOTERS, "--extract", "number", "--stop-when", "2", "--waves", "2")
    monkeypatch.setattr(algorithm_commands, "ask", lambda one, prompt, config, out, **_: seen.append(config) or 0)
    assert consensus("vote", "How many?", "--name", "night", "--pairwise-judge", "openai/arbiter").code == 0
    assert (seen[0].pairwise_judge, seen[0].extract, seen[0].stop_when) == ("openai/arbiter", "text", None)


def test_time_and_tier_are_saved_as_they_are_given(consensus, night):
    night("--flow", "pump", *VOTERS, "--service-tier", "flex", "--timeout", "120")
    assert json.loads(consensus("show", "night").out)["timeout"] == 120


@pytest.mark.usefixtures("nothing_saved")
@pytest.mark.parametrize("name", ["never-saved", "night"])
def test_check_fails_where_what_is_named_cannot_be_run(name, consensus, night, vendors, monkeypatch):
    night("--flow", "pump", "-m", "google/one")
    assert consensus("check", "--offline").code == 0, "nothing is saved as the default, and nobody has asked for it"
    assert consensus("check", "night", "--offline").code == 0
    monkeypatch.delenv("GEMINI_API_KEY")
    ran = consensus("check", name, "--offline")
    assert ran.code == 2, ran.out
    assert name in ran.out and ("no configuration is saved" in ran.out or "no key for google" in ran.out)


def test_one_that_can_no_longer_be_used_is_listed_named_and_removed(consensus, night, vendors, monkeypatch):
    """It was saved when what is refused today was taken."""
    from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig

    with monkeypatch.context() as earlier:
        earlier.setattr(ConsensusLearningConfig, "refuse_unless", lambda *_: None)
        night("--flow", "learn", *OTHERS["consensus-learning"], "--reasoning-effort", "low", "--alike", "0.7")
    ran = consensus("list")
    assert (
        ran.code == 0
        and "night\tconsensus-learning" in ran.out
        and "alike: not used by the approach centralized_llm" in ran.err
    )
    for arguments in (("show", "night"), ("How many?", "--name", "night"), ("check", "night", "--offline")):
        ran = consensus(*arguments)
        assert ran.code == 2 and "alike: not used by the approach centralized_llm" in ran.out + ran.err, arguments
    assert vendors.count() == 0


def test_the_seed_of_orders_is_known_by_its_old_name(consensus, vendors, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"members": ["openai/one"], "seed": 5}))
    ran = consensus("vote", "How many?", "--config", file, "--seed", "7", "--json")
    assert json.loads(ran.out)["seed"] == 5 and "order_seed" in ran.err
    assert [seen.params["seed"] for seen in vendors.seen] == [7]
    ran = consensus("vote", "How many?", "--config", file, "--order-seed", "3", "--json")
    assert json.loads(ran.out)["seed"] == 3


@pytest.mark.parametrize("command", [("list",), ("keys", "list"), ("batches",)])
def test_a_list_fits_a_terminal_of_80_columns(command, consensus, night, monkeypatch):
    night("--flow", "vote", *VOTERS, "--system", "A long system prompt. " * 9)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    lines = consensus(*command).out.splitlines()
    assert lines and max(map(len, lines)) <= 80
