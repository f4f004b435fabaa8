"""`consensus evaluate --judge`: a panel's free text beside each member's, on the command line."""

import json

import pytest

from consensus_flows.tasks.evaluation.free_text import FreeTextEvaluation
from consensus_flows.tasks.reports.text_report import of_free_text
from tests.kits.command_kit import commands
from tests.kits.judges_kit import BETTER, by

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]


@pytest.fixture
def consensus(vendors, monkeypatch, capsys):
    vendors.script("good", then=by(lambda text: text in BETTER or "good" in text))
    vendors.script("wordy", then=by(len))
    run = commands(monkeypatch, capsys)
    return lambda *arguments: run("evaluate", *arguments)


@pytest.fixture
def output(tmp_path):
    """The output of a batch in which the panel is better than a member once, and as good once."""
    file = tmp_path / "out.jsonl"
    rows = [("1", "a good answer", "a bad one"), ("2", "good", "good, too")]
    file.write_text(
        "".join(
            json.dumps({"id": name, "prompt": "Why?", "answer": panel, "answers": {"openai/a": {"text": text}}}) + "\n"
            for name, panel, text in rows
        ),
        encoding="utf-8",
    )
    return file


def test_recorded_answers_are_judged(consensus, output):
    ran = consensus("--from", output, "--judge", "openai/good", "--json")
    assert (ran.code, ran.err.count("Traceback")) == (0, 0)
    made = json.loads(ran.out)
    assert (made["rows"], made["adversarial"], made["refused"], made["calls"]) == (2, 1.0, False, 44)
    (member,) = made["members"]
    assert (member["member"], member["wins"], member["ties"], member["win_rate"]) == ("openai/a", 1, 1, 0.75)
    assert "openai/a" in consensus("--from", output, "--judge", "openai/good").out


def test_judges_that_fall_for_length_end_with_a_code_of_their_own(consensus, output):
    ran = consensus("--from", output, "--judge", "openai/wordy")
    assert ran.code == 6
    assert "right on 20% of the adversarial pairs" in ran.err
    assert consensus("--from", output, "--judge", "openai/wordy", "--anyway").code == 0


def test_what_cannot_be_is_refused_before_any_call(consensus, vendors, output, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt\nWhy?\n", encoding="utf-8")
    panel = ["-m", "openai/a", "-m", "openai/b", "--arbiter", "openai/c"]
    for arguments, said in (
        (["--from", output, "--judge", "openai/a"], "--judge: openai/a is in the panel"),
        ([prompts, *panel, "--judge", "openai/c"], "--judge: openai/c is in the panel"),
        (["--from", output, "--judge", "openai/good", "--arbiter", "openai/c"], "--arbiter would have no effect"),
        ([prompts, "--from", output, "--judge", "openai/good"], "give a file of prompts, or --from"),
        (["--judge", "openai/good"], "give a file of prompts, or --from"),
        (["--from", output, "--judge", "openai/good", "--strong-judge", "openai/good"], "none of the other judges"),
        (["--from", output, "--judge", "good"], "--judge: "),
        (["--from", tmp_path / "none.jsonl", "--judge", "openai/good"], "none.jsonl"),
    ):
        ran = consensus(*arguments)
        assert (ran.code, said in ran.err) == (2, True), (arguments, ran.err)
    assert vendors.count() == 0


def test_a_report_can_be_compared_with_later(consensus, vendors, tmp_path):
    def output(name, panel):
        file = tmp_path / name
        rows = [
            {"id": str(n), "prompt": f"Why {n}?", "answer": panel, "cost_usd": 0.004}
            | {"answers": {"openai/a": {"text": "<b>good</b>", "cost_usd": 0.001}}}
            for n in range(8)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return file

    vendors.script("good", then=by(lambda text: text in BETTER or text.count("good")))
    ran = consensus("--from", output("1.jsonl", "good good"), "--judge", "openai/good", "--report", tmp_path / "r")
    assert (ran.code, "$4 for 1,000" in ran.out, "for 56 calls" in ran.out) == (0, True, True)
    made = json.loads((tmp_path / "r/evaluation.json").read_text())
    assert made["usd_per_1000"] == pytest.approx(4) and made["members"][0]["usd_per_1000"] == pytest.approx(1)
    assert [row["results"] for row in made["row_results"]] == [{"openai/a": "first"}] * 8
    page = (tmp_path / "r/evaluation.html").read_text()
    assert page.count('class="plotly-graph-div"') == 3, "win rate and price, won and lost, the judges"
    assert "at 4.00 times its price" in page and "&lt;b&gt;good&lt;/b&gt;" in page and "<b>good" not in page
    baseline = ["--judge", "openai/good", "--baseline", tmp_path / "r/evaluation.json"]
    assert consensus("--from", tmp_path / "1.jsonl", *baseline).code == 0
    ran = consensus("--from", output("2.jsonl", "bad"), *baseline, "--json")
    drift = json.loads(ran.out)["baseline"]
    assert ran.code == 5
    assert (drift["win_rate"], drift["win_rate_before"], drift["rows"], drift["fell"]) == (0, 1, 8, True)
    assert of_free_text(FreeTextEvaluation.model_validate_json(ran.out)).name == "WinRateFell"


def test_a_baseline_that_cannot_be_compared_is_refused_before_any_call(consensus, vendors, output, tmp_path):
    report = tmp_path / "r"
    assert consensus("--from", output, "--judge", "openai/good", "--report", report).code == 0
    vendors.reset()
    other = tmp_path / "other.jsonl"
    other.write_text(output.read_text().replace('"id": "', '"id": "other-'))
    (tmp_path / "labels.json").write_text('{"rows": 3}')
    for file, judge, baseline, said in (
        (output, "openai/wordy", report / "evaluation.json", "--baseline: was judged by openai/good"),
        (other, "openai/good", report / "evaluation.json", "--baseline: has none of these questions"),
        (output, "openai/good", tmp_path / "labels.json", "is not an evaluation.json"),
        (output, "openai/good", tmp_path / "none.json", "cannot be read"),
    ):
        ran = consensus("--from", file, "--judge", judge, "--baseline", baseline)
        assert (ran.code, said in ran.err) == (2, True), ran.err
    assert vendors.count() == 0


def test_an_estimate_keeps_judging_apart_from_answering_and_makes_no_call(consensus, vendors, output, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt\nWhy?\nHow?\n", encoding="utf-8")
    panel = ["-m", "openai/new-a:2", "--arbiter", "openai/c", "--max-iterations", 1, "--dry-run", "--json"]
    judges = ["--judge", "openai/new-x", "--judge", "openai/y", "--strong-judge", "openai/z"]
    prices = ["--price", "openai/new-x=1000/0", "--price", "openai/new-a=0/1000"]
    ran = consensus(prompts, *panel, *judges, *prices)
    found = json.loads(ran.out)
    calls = {name: (one["calls_least"], one["calls_most"]) for name, one in found.items()}
    assert calls["panel"][0] == 2 * 3
    assert calls["adversarial"] == (20 * 2 * 2, 20 * 2 * 3)
    assert calls["judges"] == (2 * 2 * 2 * 2, 2 * 2 * 2 * 3), "rows, members, orders, judges"
    known = {name: one["known_cost_usd_most"] for name, one in found.items()}
    assert known["panel"] == pytest.approx(2 * 2 * 500 * 1e-3), "of openai/new-a alone"
    assert known["judges"] > 2 * 2 * 2 * 2 * 500 * 1e-3, "each call reads two answers"
    ran = consensus("--from", output, "--judge", "openai/new-x", "--dry-run")
    assert (ran.code, "panel is asked" in ran.out, "2 rows: 4 calls" in ran.out) == (0, False, True)
    assert vendors.count() == 0
