"""The figures of a judge of pairs, by recorded verdicts of four models and by hand."""

import gzip
import json
from collections import defaultdict

import pytest

from consensus_flows.tasks.counting.judges import JudgedPair, longer, pair_figures
from tests.kits.recorded import FOLDER


def test_the_recorded_judges_replay_to_the_digit():
    if not (FOLDER / "judges_llmbar.json.gz").exists():
        pytest.skip("the recorded verdicts are not beside the checkout")
    sides = {1: "first", 2: "second", None: None}
    kinds = defaultdict(lambda: defaultdict(list))
    for pair in json.loads(gzip.decompress((FOLDER / "judges_llmbar.json.gz").read_bytes()))["pairs"]:
        for judge, said in pair["verdicts"].items():
            judged = JudgedPair(
                better=sides[pair["label"]],
                longer=longer(pair["output_1"], pair["output_2"]),
                said=tuple(sides[one] for one in said),
            )
            kinds[pair["id"].partition("#")[0]][judge].append(judged)
    targets = json.loads((FOLDER / "judge_targets.json").read_text(encoding="utf-8"))
    checked = 0
    for kind, judges in targets.items():
        for judge, wanted in judges.items():
            if judge == "label_is_the_longer":
                assert {pair_figures(pairs).label_is_the_longer for pairs in kinds[kind].values()} == {wanted}
                continue
            found = pair_figures(kinds[kind][judge]).model_dump()
            assert {name: found[name] for name in wanted} == wanted, (kind, judge)
            checked += 1
    assert checked == 8


def test_ties_disagreements_and_what_cannot_be_read_count_as_half():
    said = [("first", "first"), ("second", "second"), ("tie", "tie"), ("first", "second"), ("second", "first")]
    said += [("first", None), ("tie", "first")]
    found = pair_figures([JudgedPair("first", "second", one) for one in said])
    assert (found.n, found.right_in_the_first_order, found.consistent, found.right_if_consistent) == (7, 3, 3, 1)
    assert (found.flips, found.flips_to_the_one_shown_first, found.unread) == (3, 1, 1)
    assert (found.right_ties_half, found.accuracy) == (3.5, 0.5)


def test_a_judge_that_goes_by_length_is_right_where_the_better_answer_is_longer():
    pairs = [JudgedPair("first", longer("long text", "short"), ("first", "first"))] * 3
    pairs += [JudgedPair("first", longer("short", "long text"), ("second", "second"))] * 2
    found = pair_figures(pairs)
    assert (found.label_is_the_longer, found.right_where_longer, found.right_ties_half) == (3, 3, 3)
    assert longer("same", "size") == "second"
