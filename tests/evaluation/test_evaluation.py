"""Every way to ask a panel, judged on rows that it was not fitted on; the figures of the recorded data, to the digit."""

import json
from pathlib import Path

import pytest

from consensus_flows.flows.evaluate import finish, from_recorded, read_baseline
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.evaluation import SINGLE, PlanResult, compared, recommended
from consensus_flows.tasks.reports.evaluation_report import facts, more, of_evaluation, sentence
from tests.kits.command_kit import commands
from tests.kits.evaluation_kit import GOLD, PRICES, recorded_roster, recorded_rows
from tests.kits.rosters import TARGETS, targets

ROSTERS = targets() if TARGETS.exists() else []
GOOD, FAIR, POOR = "openai/good", "openai/fair", "openai/poor"
FIELDS = {"plan", "right", "calls", "cost_usd", "accuracy", "ci", "better", "worse", "p"}
KEYS = {"rows", "calibration", "test", "plans", "recommended", "verdict", "ceiling", "unanimous", "ties", "members"}


def wrong_every(number):
    return lambda n: 7 if n % number else 8 + n


@pytest.fixture
def panel(tmp_path):
    """Three members whose mistakes never meet, the first the best."""
    said = {GOOD: wrong_every(8), FAIR: lambda n: 7 if (n + 1) % 5 else n, POOR: lambda n: 7 if (n + 2) % 4 else 9}
    return recorded_rows(tmp_path / "out.jsonl", said, 200, cost_usd=0.001)


@pytest.mark.skipif(not ROSTERS, reason=f"the recorded answers are not in {TARGETS.parent}")
@pytest.mark.parametrize("roster", ROSTERS, ids=lambda one: f"{one['dataset']}-{one['roster']}")
def test_the_recorded_figures_to_the_digit(roster, tmp_path, monkeypatch, capsys):
    """Every plan of the targets, by the command, on recorded answers."""
    rows = recorded_roster(tmp_path, roster)
    members = [part for name in roster["members"] for part in ("-m", f"recorded/{name}")]
    ran = commands(monkeypatch, capsys)(
        *("evaluate", "--from", rows, "--label", GOLD, *members, "--prices", PRICES, "--split", "half", "--json")
    )
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    target = roster["seed_0"]
    assert (found["rows"], found["test"], found["calibration"]) == (
        roster["all_rows"]["n"],
        target["n"],
        target["calibration"],
    )
    plans = {one["plan"]: one for one in found["plans"]}
    for name, wanted in target["methods"].items():
        one = plans[name]
        assert [one["right"], one["calls"], one["better"], one["worse"]] == [
            wanted[key] for key in ("right", "calls", "better_than_single", "worse_than_single")
        ], name
        assert one["cost_usd"] == pytest.approx(wanted["cost_usd"], abs=1e-8), name
        assert one["p"] == pytest.approx(wanted["mcnemar_p"], abs=1e-6), name


def test_a_panel_whose_mistakes_never_meet_is_better(panel):
    made = from_recorded(str(panel), GOLD)
    assert made.model_dump().keys() >= KEYS and made.plans[0].model_dump().keys() >= FIELDS
    assert (made.rows, made.test, made.split) == (200, 200, "folds")
    vote, single = made.plan("majority-listed"), made.plan(SINGLE)
    assert single.right == sum(bool(n % 8) for n in range(200)) and vote.right > single.right
    assert made.verdict.kind == "better" and made.verdict.cost_factor == pytest.approx(3)
    assert vote.worse == 0 and vote.p < 0.001
    assert made.plan(made.recommended).right >= vote.right
    assert sentence(made.verdict).startswith("majority-listed is better than the best single model, by ")
    assert made.ceiling.right == 200 and made.ceiling.upper == 1
    assert [member.right for member in made.members] == [175, 160, 150]
    assert len(made.row_results) == 200 and made.row_results[0].plans["majority-listed"].asked == [GOOD, FAIR, POOR]


def test_few_rows_cannot_tell_and_say_how_many_could(tmp_path):
    said = {GOOD: wrong_every(8), FAIR: lambda n: 7 if n % 5 else 3, POOR: lambda n: 7 if n % 5 else 3}
    made = from_recorded(str(recorded_rows(tmp_path / "out.jsonl", said, 20)), GOLD)
    assert made.verdict.kind == "cannot_tell" and made.verdict.rows_needed and made.verdict.gain
    assert sentence(made.verdict).startswith("20 rows cannot tell: about ")


def test_the_best_single_model_is_chosen_on_other_rows(tmp_path):
    """Of members that are equally good, one would look best on the rows that it was chosen on."""
    half = {f"openai/m{k}": lambda n, k=k: 7 if hash((n, k)) % 2 else 8 for k in range(6)}
    made = from_recorded(str(recorded_rows(tmp_path / "out.jsonl", half, 200)), GOLD)
    assert made.plan(SINGLE).right < max(member.right for member in made.members)


def test_ties_are_counted_and_who_wins_them(tmp_path):
    said = {FAIR: lambda n: 7 if n % 2 else 1, GOOD: lambda n: 7}
    made = from_recorded(str(recorded_rows(tmp_path / "out.jsonl", said, 40)), GOLD)
    assert (made.ties.rows, made.ties.right, made.ties.won_by) == (20, 0, {FAIR: 20})
    assert (made.unanimous.rows, made.unanimous.right) == (20, 20)


def test_without_prices_accuracy_is_all_that_is_compared(tmp_path):
    said = {GOOD: wrong_every(8), POOR: wrong_every(3)}
    made = from_recorded(str(recorded_rows(tmp_path / "out.jsonl", said, 40)), GOLD)
    assert made.plan("majority-listed").cost_usd is None and made.verdict.cost_factor is None
    assert "unknown" in dict(facts(made))["USD per 1,000 questions"]
    assert any("is not known" in text for text in more(made))


def test_a_panel_that_has_become_worse_than_its_baseline_has_an_exit_code_of_its_own(
    panel, tmp_path, monkeypatch, capsys
):
    run = commands(monkeypatch, capsys)
    asked = ("--label", GOLD, "-m", GOOD, "-m", FAIR, "-m", POOR)
    first = run("evaluate", "--from", panel, *asked, "--report", tmp_path / "report")
    before = tmp_path / "report" / "evaluation.json"
    page = before.with_suffix(".html").read_text(encoding="utf-8")
    assert f"<p class=dim>{Path(panel).name}, " in page, "the page names the file, not its folder"
    assert first.code == 0 and read_baseline(before).row_results
    assert run("evaluate", "--from", panel, *asked, "--baseline", before).code == 0
    worse = recorded_rows(tmp_path / "now.jsonl", {name: wrong_every(3) for name in (GOOD, FAIR, POOR)}, 200)
    again = run("evaluate", "--from", worse, *asked, "--baseline", before, "--json")
    found = json.loads(again.out)["baseline"]
    assert again.code == 5 and found["fell"] and found["worse"] > 40 and found["rows"] == 200
    made = finish(from_recorded(str(worse), GOLD), read_baseline(before), None)
    assert of_evaluation(made).name == "AccuracyFell"


def test_what_a_vote_cannot_be_set_to_is_not_recommended():
    def plan(name, right):
        better = {"better": 40, "worse": 0, "p": 0.0, "p_holm": 0.0, "difference": (right - 150) / 200}
        single = {"better": 0, "worse": 0, "p": 1.0, "p_holm": 1.0, "difference": 0}
        figures = {"plan": name, "right": right, "calls": 600, "cost_usd": 1, "accuracy": right / 200, "ci": (0, 1)}
        return PlanResult(**figures, difference_ci=(0, 1), **(single if name == SINGLE else better))

    best = [plan(name, 195) for name in ("dawid-skene", "sequential-0.9", "plan-any-cost")]
    for name in ("stop-2", "sequential-learned-0.9", "my-panel"):
        assert recommended([plan(SINGLE, 150), *best, plan(name, 190)], 200) == name


def test_a_baseline_of_other_rows_is_refused(panel):
    made = from_recorded(str(panel), GOLD)
    other = made.model_copy(update={"row_results": []})
    with pytest.raises(ConfigurationError, match="baseline: it has no row of this file"):
        compared(made, other)


@pytest.mark.usefixtures("results")
def test_the_recorded_answers_of_a_saved_panel(panel, vendors, tmp_path, monkeypatch, capsys):
    run = commands(monkeypatch, capsys)
    saved = ("save", "recorded-panel", "--flow", "vote", "-m", POOR, "-m", GOOD, "--extract", "number")
    assert run(*saved).code == 0
    for command in ("evaluate", "calibrate"):
        asked = (command, "--from", panel, "--label", GOLD, "--json")
        named = run(*asked, "--name", "recorded-panel")
        assert named.code == 0, named.err
        assert named.out == run(*asked, "-m", POOR, "-m", GOOD, "--extract", "number").out
    assert vendors.count() == 0
    two = run("evaluate", "--from", panel, "--label", GOLD, "--name", "recorded-panel", "--name", "recorded-panel")
    assert two.code == 2 and "give one panel" in two.err
    run("remove", "recorded-panel")


def test_the_command_prints_the_five_figures_first(panel, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    ran = commands(monkeypatch, capsys)("evaluate", "--from", panel, "--label", GOLD)
    lines = ran.out.splitlines()
    assert lines[0].startswith("majority-listed is better than the best single model")
    for name in ("accuracy", "difference", "McNemar", "USD per 1,000 questions", "calls a question"):
        assert any(line.startswith(name) for line in lines[1:12]), name
    start = lines.index(next(line for line in lines if line.startswith("plan ")))
    assert max(map(len, lines[start : lines.index("", start)])) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.csv", "--from", "out.jsonl"], "--from: the rows of that file are read"),
        (["--from", "out.jsonl", "--stop-when", "2"], "--from: no model is asked, so --stop-when would have no effect"),
        (
            ["--from", "out.jsonl", "--name", "night", "-m", "openai/a"],
            "--name: with --from no model is asked: give one",
        ),
        (["--from", "out.jsonl", "-m", "good"], "-m: 'good' is not a model name"),
        ([], "input: give a file of labeled rows, or --from FILE"),
        (["in.csv", "--prices", "p.json"], "--prices: for recorded answers, with --from"),
        (["--from", "none.jsonl"], "input: no such file: none.jsonl"),
    ],
)
def test_what_fits_not_together_is_refused(arguments, message, monkeypatch, capsys):
    ran = commands(monkeypatch, capsys)("evaluate", *arguments, "--label", GOLD)
    assert ran.code == 2 and ran.err.startswith(f"consensus: {message}")
