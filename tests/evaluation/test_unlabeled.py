"""Without labels: who agrees with whom, what that costs, and no word on who is right."""

import json

import pytest

from consensus_flows.flows.agreement import agreement_of_recorded
from consensus_flows.tasks.counting.vote import count_votes
from consensus_flows.tasks.evaluation.agreement import krippendorff_alpha
from consensus_flows.tasks.reports.agreement_report import LABELS, WHY, findings
from tests.kits.command_kit import commands
from tests.kits.evaluation_kit import write_rows
from tests.vendors import ANY, Reply

CHEAP, OTHER, DEAR = "openai/cheap", "openai/other", "openai/dear"
PRICE = {CHEAP: 0.001, OTHER: 0.002, DEAR: 0.01}
ROWS = 20


def said(name, n):
    """The dear one says something of its own each fifth row, the cheap one each fourth; the other one is silent once."""
    own = {CHEAP: 4, DEAR: 5}
    if name == OTHER:
        return None if n == 1 else "7"
    return f"{n}{n}" if n % own[name] == 0 else "7"


@pytest.fixture
def recorded(tmp_path):
    rows = (
        {"id": f"r{n}", "answers": {name: {"answer": said(name, n), "cost_usd": cost} for name, cost in PRICE.items()}}
        for n in range(1, ROWS + 1)
    )
    return write_rows(tmp_path / "out.jsonl", rows)


def test_who_agrees_with_whom_and_who_stands_alone(recorded):
    made = agreement_of_recorded(str(recorded))
    assert (made.rows, made.unanimous.rows, made.unanimous.right) == (20, 11, None)
    # Rows 4, 8, 12 and 16 of the cheap one, 5, 10 and 15 of the dear one; on row 20 both say the same.
    assert {one.member: (one.alone, one.unread) for one in made.members} == {CHEAP: (4, 0), OTHER: (1, 1), DEAR: (3, 0)}
    assert made.agreement[0] == [1, 14 / 20, 13 / 20]
    assert made.agreement[1][1] == 19 / 20, "no answer agrees with nobody"
    assert (made.ties.rows, made.ties.right) == (0, None)
    assert (made.calls, made.cost_usd) == (3, pytest.approx(0.013))


def test_what_a_cascade_of_the_two_cheapest_would_ask(recorded):
    made = agreement_of_recorded(str(recorded), members=[DEAR, OTHER, CHEAP]).cascade
    assert (made.ask, made.then, made.agree) == ([CHEAP, OTHER], DEAR, 14)
    assert made.calls == pytest.approx(2 + 6 / 20)
    assert made.cost_usd == pytest.approx(0.003 + 0.01 * 6 / 20)
    assert agreement_of_recorded(str(recorded), members=[DEAR, CHEAP]).cascade is None


def test_alpha_takes_out_what_agrees_by_chance():
    # Krippendorff's own example of nominal data (Computing Krippendorff's Alpha-Reliability, 2011, C).
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    assert krippendorff_alpha(zip(*observers, strict=True)) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha([["A", "A"], ["A", None]]) is None, "nothing differs, so there is no chance to differ"
    assert krippendorff_alpha([["A", "B"], ["B", "A"]]) < 0


def test_it_says_why_there_are_no_weights_and_what_labels_would_add(recorded):
    found = findings(agreement_of_recorded(str(recorded)))
    assert {WHY, LABELS} <= set(found.more)
    assert [len(row) for row in found.rows] == [len(found.header)] * 3
    told = " ".join([found.sentence, *(text for _, text in found.facts), *found.more[2:]])
    assert "right" not in told.replace("Whether it is as right, only labels show.", "")


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_the_commands_report_agreement_of_recorded_answers(command, recorded, tmp_path, monkeypatch, capsys):
    run = commands(monkeypatch, capsys)
    asked = (command, "--from", recorded, "-m", CHEAP, "-m", OTHER, "-m", DEAR)
    ran = run(*asked, "--json", "--report", tmp_path / "report")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["cascade"]["agree"] == 14 and "plans" not in found and "accuracy" not in ran.out
    assert json.loads((tmp_path / "report" / "agreement.json").read_text()) == found
    page = (tmp_path / "report" / "agreement.html").read_text(encoding="utf-8")
    assert page.count('class="plotly-graph-div"') == 1 and "out.jsonl" in page
    assert WHY in run(*asked).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--plan", "stop-2", "--split", "half"), "--plan, --split: without --label"),
        (("calibrate", "--save", "night", "--goal", "cost"), "--save, --goal: without --label"),
        (("evaluate", "--limit", "5"), "--from: all of its rows are read and no model is asked, so --limit"),
    ],
)
def test_what_would_have_no_effect_is_refused(arguments, message, recorded, monkeypatch, capsys):
    command, *options = arguments
    ran = commands(monkeypatch, capsys)(command, "--from", recorded, *options)
    assert ran.code == 2 and ran.err.startswith(f"consensus: {message}"), ran.err


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_each_member_is_asked_once_and_nothing_is_saved(command, vendors, tmp_path, monkeypatch, capsys):
    vendors.script(ANY, then=lambda seen: Reply(said(f"openai/{seen.model}", int(seen.prompt.split()[-1])) or "Hm."))
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt\n" + "".join(f"Question {n}\n" for n in range(1, ROWS + 1)))
    members = [part for name in PRICE for part in ("-m", name)]
    asked = (command, rows, "--extract", "number", *members)
    run = commands(monkeypatch, capsys)
    estimated = json.loads(run(*asked, "--dry-run", "--json").out)
    assert estimated["members"]["calls_most"] == ROWS * 3 and vendors.count() == 0
    ran = run(*asked, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert (found["rows"], found["unanimous"]["rows"], vendors.count()) == (ROWS, 11, ROWS * 3)
    assert found["flow_run_id"]


def test_a_tie_is_counted_as_the_vote_counts_it(tmp_path):
    rows = [{"id": n, "answers": {CHEAP: {"answer": "1"}, OTHER: {"answer": "2"}}} for n in range(10)]
    made = agreement_of_recorded(str(write_rows(tmp_path / "out.jsonl", rows)))
    assert count_votes(["1", "2"]).tie
    assert (made.ties.rows, made.ties.won_by, made.cost_usd) == (10, {CHEAP: 10}, None)
    assert any("is not known" in text for text in findings(made).more)
