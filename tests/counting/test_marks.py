"""Marks around an answer say nothing; marks that are part of it stay, in what is shown and in what is counted."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.counting.consensus import values_of
from consensus_flows.tasks.counting.extraction.choices import chosen_label
from consensus_flows.tasks.counting.extraction.extract import extract, extract_all
from consensus_flows.tasks.counting.extraction.marks import plain, shown
from consensus_flows.tasks.record import Response
from tests.kits.consortium_kit import say

WHOLE = ["O(n log n)", "C#", "C++", "f(x)", "[1, 2]", "(0, 1)", ".NET", "n!", "__init__", "{1}", "#1", "x²", "(a)(b)"]
"""Answers whose marks are part of them."""


@pytest.mark.parametrize("answer", WHOLE)
@pytest.mark.parametrize("form", ["text", "llm", "json:answer", "text:answer"])
def test_what_is_part_of_an_answer_stays(answer, form):
    import json

    text = answer if ":" not in form else json.dumps({"answer": answer})
    if form == "json:answer" and any(char.isdigit() for char in answer):
        return  # a field with a number in it is that number
    assert extract(text, parse_extraction(form)) == (answer.casefold(), answer)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("C#", "C"),
        ("C++", "C"),
        ("n!", "n"),
        ("5!", "5"),
        (".NET", "NET"),
        ("__init__", "init"),
        ("[1, 2]", "(1, 2)"),
        ("[42]", "42"),
        ("{42}", "42"),
        ("(0, 1)", "0, 1"),
        ("O(n log n)", "O(n log n"),
        ("10²", "102"),
        ("2ˣ", "2x"),
        ("101₂", "1012"),
        ("~~4~~", "4"),
        ("(a)(b)", "a)(b"),
        ("#1", "1"),
        ("()", ""),
    ],
)
def test_different_answers_are_not_one(one, other):
    first, second = (extract_all([text], parse_extraction("text")) for text in (one, other))
    assert first != second
    assert plain(one) != plain(other)


@pytest.mark.parametrize(
    ("one", "other", "seen"),
    [
        ("**Paris**.", "paris", "**Paris**."),
        ("\u201cParis.\u201d", "Paris", "Paris."),
        ("_The  Sun_", "the sun", "The Sun"),
        ("'`x`'", "x", "x"),
        ("(B)", "b", "(B)"),
        ("```python\nprint(1)\n```", "print(1)", "print(1)"),
        ("\uff46\uff55\uff4c\uff4c", "full", "\uff46\uff55\uff4c\uff4c"),
        ("**a** and **b**", "**A** and **B**", "**a** and **b**"),
        ("'a' or 'b'", "'a' or 'b'.", "'a' or 'b'"),
    ],
)
def test_marks_around_it_say_nothing(one, other, seen):
    assert plain(one) == plain(other)
    assert shown(one) == seen


@given(st.text(alphabet="ab ()[]*_`\"'.,#!1\u201c\u201d"))
def test_whatever_is_written_has_a_key_and_is_shown(text):
    assert bool(plain(text)) == bool(shown(text)) == bool(text.strip())
    assert plain(f" {text}\n") == plain(text)


@pytest.mark.parametrize("pair", ["()", "**", '""', "``", "'(", "[]", "__", " .", "\u201c\u201d", "²a", "``\n"])
def test_megabytes_of_marks_take_a_moment(pair):
    for text in (pair[0] * 500_000 + pair[1] * 500_000, pair * 500_000, pair[0] + "a" * 1_000_000 + pair[1]):
        started = time.thread_time()
        plain(text)
        shown(text)
        assert time.thread_time() - started < 1


def test_a_label_within_another_is_not_taken_for_it():
    assert [chosen_label(text, ["C", "C#", "C++"]) for text in ("C#", "**C**.", "C++!")] == ["C#", "C", "C++"]
    assert chosen_label("I like C#", ["C", "Java"]) is None
    assert chosen_label("n!", ["n", "n!"]) == "n!"
    assert [chosen_label(text, ["yes", "no"]) for text in ("yes!", "# Yes", "(no)")] == ["yes", "yes", "no"]


def test_all_ways_to_count_read_alike():
    texts = ["C#", "c#.", "C", "C++", "C++"]
    answers = [
        Response(member=f"openai/m#{number}", provider="openai", model="m", text=text)
        for number, text in enumerate(texts)
    ]
    assert values_of(answers, "text") == ["C#", "C#", "C", "C++", "C++"]
    fields = [f'{{"answer": "{text}"}}' for text in texts]
    assert [one.text for one in extract_all(fields, parse_extraction("json:answer"))] == [
        "C#",
        "c#.",
        "C",
        "C++",
        "C++",
    ]


@pytest.mark.usefixtures("results")
@pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted")
async def test_a_vote_shows_the_answer_whole(vendors):
    say(vendors, one="C#", two="C", three="**C#**")
    members = ["openai/one", "openai/two", "openai/three"]
    record = await run_vote("Which?", VoteConfig(members=members))
    assert (record.answer, [(one.answer, one.votes) for one in record.tally]) == ("C#", [("C#", 2), ("C", 1)])
    say(vendors, one="O(n log n)", two="O(n log n).", three="o(n  log n)")
    record = await run_vote("How long?", VoteConfig(members=members))
    assert (record.answer, record.unanimous) == ("O(n log n)", True)


def test_no_raised_or_lowered_sign_is_left_out():
    from consensus_flows.tasks.counting.extraction.marks import _PLACED

    for code in range(0x10000):
        sign = chr(code)
        placed = unicodedata.decomposition(sign).startswith(("<super>", "<sub>", "<fraction>"))
        assert placed <= bool(_PLACED.fullmatch(sign)), hex(code)
