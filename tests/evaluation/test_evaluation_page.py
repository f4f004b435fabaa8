"""The page of an evaluation: what is on the front, and that the page shows everything without a network."""

import re

from consensus_flows.flows.evaluate import from_recorded
from consensus_flows.tasks.evaluation.reliability import grouped
from consensus_flows.tasks.reports.charts import Point, front, reliability, upper_hull, worth
from consensus_flows.tasks.reports.evaluation_page import charts, write_evaluation
from tests.kits.evaluation_kit import GOLD, recorded_rows


def point(name, dollars, accuracy):
    return Point(name, dollars, accuracy, accuracy - 0.02, accuracy + 0.02)


CHEAP, MIDDLE, WORSE, DEAR = (
    point("cheap", 1, 0.6),
    point("middle", 5, 0.62),
    point("worse", 6, 0.61),
    point("dear", 10, 0.9),
)


def test_the_front_leaves_out_what_is_dearer_and_no_better():
    assert front([DEAR, WORSE, MIDDLE, CHEAP]) == [CHEAP, MIDDLE, DEAR]


def test_the_hull_leaves_out_what_a_random_mix_beats():
    assert upper_hull([MIDDLE, WORSE, DEAR, CHEAP]) == [CHEAP, DEAR]
    better = point("better", 5, 0.8)
    assert upper_hull([better, DEAR, CHEAP]) == [CHEAP, better, DEAR]


def test_a_mix_of_two_models_is_straight_in_dollars():
    mixes = worth([CHEAP, DEAR], [MIDDLE]).figure.data[0]
    half = mixes.x.index(5.5)
    assert abs(mixes.y[half] - 0.75) < 1e-9


def test_rows_are_grouped_by_what_was_stated():
    drawn = reliability(grouped([(0.91, True), (0.99, True), (1.0, False), (0.2, False)]), "probability").figure.data[1]
    assert [round(one, 3) for one in drawn.x] == [0.2, 0.967]
    assert [round(one, 3) for one in drawn.y] == [0, 0.667]
    assert drawn.text == ("1 rows", "3 rows")


def test_the_page_needs_no_network_and_shows_text_as_text(tmp_path):
    rows = recorded_rows(
        tmp_path / "rows.jsonl",
        {"a/one": lambda n: 7 if n % 2 else 8, "a/two": lambda n: 7 if n % 3 else 9, "a/three": lambda _: 7},
        cost_usd=0.01,
    )
    made = from_recorded(str(rows), GOLD)
    for row in made.row_results:
        row.group = "odd" if int(row.id[1:]) % 2 else "even"
    write_evaluation(tmp_path / "page.html", made, title="<b>file</b>.csv")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    shown = list(charts(made))
    assert len(shown) == 6, "price, probability, share, agreement, won and lost, category"
    assert page.count('class="plotly-graph-div"') == len(shown)
    assert "&lt;b&gt;file&lt;/b&gt;.csv" in page
    assert not re.search(r"<(script|link|img)[^>]*\b(src|href)=", page)


def test_who_agrees_is_counted_by_what_the_answers_mean(tmp_path):
    rows = recorded_rows(
        tmp_path / "rows.jsonl", {"a/one": lambda _: "0.5", "a/two": lambda n: "1/2" if n % 4 else None}
    )
    made = from_recorded(str(rows), GOLD, extract="number")
    assert made.agreement == [[1, 0.75], [0.75, 0.75]]
