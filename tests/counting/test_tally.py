"""Many prompts in one run, and many recorded preferences put together."""

import csv
import json
from xml.etree import ElementTree as ET

import pytest

from consensus_flows.tasks.record import JudgeRanking, Record
from consensus_flows.tasks.reports.pictures import picture
from consensus_flows.tasks.reports.record_files import read_preferences
from consensus_flows.tasks.reports.tally import agreed, rank_rows, table_rows, tally
from tests.kits.command_kit import commands
from tests.kits.preference_kit import MEMBERS, ONE, THREE, TWO, panel, prefers
from tests.vendors import faults

A, B, C = "p/a#1", "p/b#1", "p/c#1"
PANEL = [part for name in MEMBERS for part in ("-m", name)]


def said(judge, *groups, number=1):
    ranking = [[group] if isinstance(group, str) else list(group) for group in groups]
    return JudgeRanking(
        judge=judge, round=number, order=[m for group in ranking for m in group], ranking=ranking, abstained=not ranking
    )


def record(*entries):
    return Record(flow="prefer", prompt="?", rankings=list(entries))


def test_judges_agree_on_whom_all_put_first_who_may():
    assert agreed([said(A, B, C), said(B, A, C), said(C, A, B)]) == [A], "nobody can vote for itself"
    assert agreed([said(A, B, C), said(B, C, A), said(C, A, B)]) == []
    assert agreed([said(A, B, C), said(B), said(C)]) == [], "one judge agrees with nobody"
    assert agreed([said(A, (B, C)), said(B, C, A), said(C, B, A)]) == [B, C]
    assert agreed([said(A, (B, C)), said(B, C, A), said(C, A, B)]) == [C]
    assert agreed([said(A, A, B, C), said(B, B, A, C), said(C, A, B)]) == [A], "own ranks are left out"


def test_the_table_and_its_totals():
    found = tally(
        {
            "01": record(said(A, B, C), said(B, A, C), said(C, A, B)),
            "02": record(said(A, (B, C)), said(B, C, A), said(C), said(C, B, A, number=2)),
        }
    )
    assert table_rows(found) == [
        ["", "prompt", "round", A, B, C, "agreed"],
        ["prompt", "01", "1", B, A, A, A],
        ["prompt", "02", "1", f"{B} = {C}", C, "abstained", C],
        ["prompt", "02", "2", "", "", B, "disagree"],
        ["total", A, "", "0", "1", "1", "1"],
        ["total", B, "", "2", "0", "1", "0"],
        ["total", C, "", "1", "1", "0", "1"],
        ["total", "disagree", "", "", "", "", "1"],
    ]
    assert (found.disagreements, found.scores.rankings, found.scores.abstentions) == (1, 6, 1)
    assert found.matrix[A] == {B: 1.25, C: 1.75}
    assert found.scores.position_effect is not None


def test_one_row_for_each_answer_that_a_judge_saw():
    rows = rank_rows({"01": record(said(A, (B, C)), said(B))})
    assert rows == [
        ["prompt", "round", "judge", "member", "position", "place"],
        ["01", "1", A, B, "1", "1.5"],
        ["01", "1", A, C, "2", "1.5"],
    ]


def test_the_picture_is_sound_and_holds_all_names():
    odd = 'p/<b>&"\x00 very long name of a model that would never fit#1'
    found = tally({"01": record(said(A, A, odd, C), said(odd, odd, C, A), said(C, odd, A, C))})
    svg = picture(found)
    texts = "".join(ET.fromstring(svg).itertext())
    assert "What the judges prefer" in texts
    assert A in texts
    assert 'p/<b>&"' in texts
    assert {"by its own model", "by the others"} <= set(ET.fromstring(svg).itertext())
    ET.fromstring(picture(tally({"01": record(said(A), said(B), said(C))})))


def test_what_is_no_preference_is_named(tmp_path):
    (tmp_path / "01.json").write_text(record(said(A, B, C)).model_dump_json())
    (tmp_path / "02.json").write_text("{")
    (tmp_path / "03.json").write_text('{"flow": "prefer"}')
    (tmp_path / "04.json").write_text(Record(flow="vote", prompt="?").model_dump_json())
    (tmp_path / "05.json").write_text(record().model_dump_json())
    (tmp_path / "06.json").write_text(record(said(A, B, B)).model_dump_json())
    (tmp_path / "notes.txt").write_text("mine")
    good, bad = read_preferences(tmp_path)
    assert list(good) == ["01"]
    assert list(bad) == ["02.json", "03.json", "04.json", "05.json", "06.json"]
    assert "prompt: Field required" in bad["03.json"]
    assert "vote run" in bad["04.json"]


@pytest.fixture
def consensus(results, vendors, monkeypatch, capsys):
    panel(vendors)
    return commands(monkeypatch, capsys)


def test_the_command_prints_the_answer_and_shows_the_rankings(consensus):
    ran = consensus("prefer", *PANEL, "-p", "Which?")
    assert (ran.code, ran.out) == (0, "beta\n")
    assert f"{TWO} > {THREE}" in ran.err
    assert f"best by Borda: {TWO}" in ran.err
    plain = json.loads(consensus("prefer", *PANEL, "-p", "Which?", "--json", "--rounds", "2", "--include-self").out)
    assert len(plain["rankings"]) == 6
    assert plain["scores"]["kendall_w"] == 1
    ran = consensus("prefer", "-m", "openai/one:2", "-p", "Which?")
    assert (ran.code, "members: there are only 2" in ran.err) == (2, True)
    assert consensus("save", "my-judges", "--flow", "prefer", *PANEL, "--rounds", "2").code == 0
    assert consensus("Which?", "--name", "my-judges", "--raw").out == "beta\n"


def test_a_folder_of_prompts_and_its_tally(consensus, vendors, tmp_path):
    prompts, records = tmp_path / "prompts", tmp_path / "records"
    prompts.mkdir()
    for name, text in {"01.md": "First?", "02.txt": "Second?", "notes.rst": "No prompt."}.items():
        (prompts / name).write_text(text)
    ran = consensus("prefer", *PANEL, "--prompts", prompts, "--output", records)
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in records.iterdir()) == ["01.json", "02.json", "answers.jsonl"]
    assert Record.model_validate_json((records / "02.json").read_text()).prompt == "Second?"
    assert TWO in ran.out
    assert f"First?: best {TWO}" in ran.err
    assert vendors.count() == 12
    again = json.loads(consensus("prefer", *PANEL, "--prompts", prompts, "--output", records, "--json").out)
    assert [one["cached_calls"] for one in again["outcomes"]] == [6, 6]
    assert vendors.count() == 12, "what was answered is not asked again"
    (records / "broken.json").write_text("[]")
    table, chart, ranks = tmp_path / "table.csv", tmp_path / "chart.svg", tmp_path / "ranks.csv"
    ran = consensus("tally", records, "--csv", table, "--picture", chart, "--ranks-csv", ranks)
    assert ran.code == 0
    assert "broken.json is not a record" in ran.err
    assert f"best by Borda: {TWO}" in ran.out
    rows = list(csv.reader(table.read_text().splitlines()))
    assert rows[1] == ["prompt", "01", "1", TWO, THREE, TWO, TWO]
    assert rows[-1] == ["total", "disagree", "", "", "", "", "0"]
    assert len(ranks.read_text().splitlines()) == 13
    ET.fromstring(chart.read_text())
    plain = json.loads(consensus("tally", records, "--json").out)
    assert plain["answers"] == {ONE: 0, TWO: 2, THREE: 0}


def test_a_prompt_without_an_answer_is_told_and_does_not_stop_the_others(consensus, vendors, tmp_path):
    (tmp_path / "01.md").write_text("First?")
    (tmp_path / "02.md").write_text("Second?")
    panel(vendors, two=prefers("gamma", "alpha"))
    for model in ("one", "three"):
        vendors.script(model, faults.bad_request(), then=faults.bad_request())
    ran = consensus("prefer", *PANEL, "--prompts", tmp_path, "--output", tmp_path / "out")
    assert ran.code == 1
    assert "First?: 1 of 3 members answered" in ran.err
    failed = Record.model_validate_json((tmp_path / "out" / "02.json").read_text())
    assert (failed.status, failed.answer) == ("failed", None)
    ran = consensus("tally", tmp_path / "out")
    assert (ran.code, "is a record of prefer" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--prompts", "{folder}"], "--prompts needs --output DIR"),
        (["--prompts", "{folder}", "--output", "{folder}/out", "-p", "x"], "there are two prompts"),
        (["--prompts", "{folder}", "--output", "{folder}/out"], "no *.md or *.txt files in the folder"),
        (["--prompts", "{folder}/nowhere", "--output", "{folder}/out"], "no such folder"),
    ],
)
def test_bad_folders_are_found_before_any_call(consensus, vendors, tmp_path, arguments, cause):
    ran = consensus("prefer", *PANEL, *(text.replace("{folder}", str(tmp_path)) for text in arguments))
    assert (ran.code, cause in ran.err) == (2, True), ran.err
    assert vendors.count() == 0


def test_a_picture_needs_a_name_that_says_its_format(consensus, tmp_path):
    (tmp_path / "01.json").write_text(record(said(A, B, C)).model_dump_json())
    ran = consensus("tally", tmp_path, "--picture", tmp_path / "chart.gif")
    assert (ran.code, "must end in .svg or .png" in ran.err) == (2, True)
    assert "no such folder" in consensus("tally", tmp_path / "nowhere").err
