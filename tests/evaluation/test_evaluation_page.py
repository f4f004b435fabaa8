"""The page of an evaluation: what is on the front, and that the page shows everything without a network."""

import re

from consensus_flows.tasks.reports.evaluation_page import (
    Point,
    by_category,
    front,
    matrix,
    reliability,
    upper_hull,
    won_and_lost,
    worth,
    write_page,
)


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
    drawn = reliability([(0.91, True), (0.99, True), (1.0, False), (0.2, False)], "probability").figure.data[1]
    assert [round(one, 3) for one in drawn.x] == [0.2, 0.967]
    assert [round(one, 3) for one in drawn.y] == [0, 0.667]
    assert drawn.text == ("1 rows", "3 rows")


def test_the_page_needs_no_network_and_shows_text_as_text(tmp_path):
    charts = [
        worth([CHEAP, DEAR], [MIDDLE]),
        reliability([(0.5, True)], "probability"),
        matrix(["a", "b"], [[1, 0.5], [0.5, 1]]),
        won_and_lost([("majority", 3, 1)], "dear"),
        by_category([("law", 120, 0.7, 0.6)], "majority", "dear"),
    ]
    write_page(
        tmp_path / "page.html",
        title="<b>file</b>.csv",
        verdict="200 rows cannot tell.",
        facts=["A fact."],
        header=["plan", "right"],
        table=[["majority", "20"]],
        charts=charts,
    )
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;file&lt;/b&gt;.csv" in page
    assert not re.search(r"<(script|link|img)[^>]*\b(src|href)=", page)
    assert all(chart.title in page for chart in charts)
    assert page.count('class="plotly-graph-div"') == len(charts)
