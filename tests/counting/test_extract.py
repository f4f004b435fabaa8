"""What is read as an answer, and what is not: an abstention is never a vote."""

import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.tasks.counting.extraction.choices import chosen_label, chosen_letter
from consensus_flows.tasks.counting.extraction.extract import extract, extract_all
from consensus_flows.tasks.counting.extraction.json_field import field_of
from consensus_flows.tasks.counting.extraction.numbers import stated_number

FORMS = ["number", "choice", "json:answer", "label:yes,no", "label:A,B", "text", "text:answer", "llm"]


def value(text, form):
    found = extract(text, parse_extraction(form))
    return None if found is None else found.value


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("**C**", "C"),
        ("The answer is B.", "B"),
        ("The answer is **(D)**, as shown", "D"),
        ("Answer: A", "A"),
        ("The correct answer is A, because it fits.", "A"),
        ("answer is: (c)", "C"),
        ("Answer:\n\nB", "B"),
        ("Final answer: option D", "D"),
        (r"So we get \boxed{C}.", "C"),
        ("B) Paris", "B"),
        ("**B. Paris**\n\nIt is the capital.", "B"),
        ("Option C is correct.", "C"),
        ("I would choose B because of the price.", "B"),
        ("A) 1\nB) 2\n\nB", "B"),
        ("The answer is A. No, wait: the answer is B.", "B"),
        ("I'd go with option E", "E"),
        # the article and the pronoun
        ("A good idea is to wait.", None),
        ("A dog", None),
        ("Answer: A dog is an animal", None),
        ("The answer is a matter of taste.", None),
        ("I think it is hard to say.", None),
        ("Answer: I don't know", None),
        ("Answer: I'd say none", None),
        # nothing, several, or the opposite
        ("A) 1\nB) 2\nC) 3", None),
        ("The answer is not A", None),
        ("Don't pick B", None),
        ("Vitamin C helps.", None),
        ("", None),
    ],
)
def test_choices(text, letter):
    assert value(text, "choice") == letter


def test_letters_that_are_no_choice_are_not_read():
    assert chosen_letter("The answer is F.", "ABCD") is None
    assert chosen_letter("The answer is F. The answer is B.", "ABCD") == "B"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Yes", "yes"),
        ("**No.**", "no"),
        ("No, because there is no yes.", "no"),
        ("Let me think.\n\nyes", "yes"),
        ("The verdict is **No**. Some would say yes.", "no"),
        ("I say yes", "yes"),
        ("yes or no?", None),
        ("Yes, no, whatever", None),
        ("It is not a yes", None),
        ("Perhaps", None),
        ("yesterday", None),
    ],
)
def test_labels(text, label):
    assert value(text, "label:yes,no") == label


def test_labels_keep_their_spelling_and_the_longest_counts():
    assert chosen_label("this is NOT  safe", ["Safe", "Not safe"]) == "Not safe"
    assert chosen_label("A cat is nice", ["A", "B"]) is None
    assert chosen_label("the answer is b.", ["A", "B"]) is None
    assert chosen_label("b", ["a", "b"]) == "b"
    assert chosen_label("c++ it is", ["C++", "C"]) == "C++"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", 42),
        ("3 + 4 = 7 eggs, so the total is $1,234.50.", 1234.5),
        ("The **answer** is: **$1,200**. It took 3 steps.", 1200),
        ("Answer: 3 + 4 = 7", 7),
        (r"\boxed{\frac{3}{4}}", Fraction(3, 4)),
        ("reasoning with 5\n#### -5", -5),
        ("1 000 eggs", 1000),
        ("Answer: 50%", 50),
        ("it costs -$5", -5),
        ("- 5 eggs", 5),
        ("about 1/2", 0.5),
        ("\u22125", -5),
        ("1e3", 1000),
        ("3,5", None),  # three and a half, or two numbers
        ("1.000.000", None),
        ("H2O", None),
        ("1/0", None),
        ("1e999", Decimal("1e999")),
        ("none", None),
    ],
)
def test_numbers_in_prose(text, number):
    found = stated_number(text)
    assert (found and found.value) == number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"answer": 5}', "5"),
        ('Sure! {"a": {"answer": "5"}} and {"answer": 6}', "5"),
        ('```json\n{"reasoning": "two\nlines {with braces}", "answer": "x"}\n```</s>', "x"),
        ('{broken} {"other": 1} {"answer": [1]}', ["1"]),
        (r'{"reasoning": "so \( x \)", "answer": "7"}', "7"),  # no such escape in JSON
        ('{"answer": 1,200.5, "reasoning": "cut o', "1,200.5"),
        ('{"answer": "a \\" b", "reasoning": "cut o', 'a \\" b'),
        ('{"answer": null}', None),
        ('{"reasoning": "cut", "answer": null', None),
        ("the answer: 5", None),
    ],
)
def test_fields(text, expected):
    assert field_of(text, "answer") == expected


def test_a_json_field_is_a_number_where_most_answers_have_one():
    form = parse_extraction("json:answer")
    texts = [f'{{"answer": {one}}}' for one in ('"$1,200"', "1200.0", '"cannot be determined"', '{"x": 1200}', "null")]
    assert [found and found.text for found in extract_all(texts, form)] == ["$1,200", "1200.0", None, None, None]
    names = [f'{{"answer": "{one}"}}' for one in ("Paris", " paris. ", "Lyon 2e")]
    assert [found.value for found in extract_all(names, form)] == ["paris", "paris", "lyon 2e"]
    assert extract_all([None, "nothing"], form) == [None, None]
    assert value('{"answer": true}', "json:answer") == "true"


def test_a_text_field_is_never_taken_for_a_number_in_it():
    assert value('{"answer": "Apollo 11"}', "text:answer") == "apollo 11"
    assert value('{"answer": "11"}', "text:answer") == 11


def test_texts_are_compared_without_case_blanks_and_marks():
    assert value(' "**The  Sun.**"\n', "text") == value("the sun", "text") == "the sun"
    assert value("42.0", "text") == value("**42**", "text") == value("(42).", "text") == 42
    assert extract("  Paris. ", parse_extraction("text")).text == "Paris."
    assert value(" \n ", "text") is None
    assert value("?", "text") == "?"


@given(st.text(), st.sampled_from(FORMS))
def test_any_text_is_read_or_not(text, form):
    found = extract(text, parse_extraction(form))
    assert found is None or found.text
    assert extract_all([text, text], parse_extraction(form))[0] == extract_all([text, text], parse_extraction(form))[1]


@pytest.mark.parametrize(
    "unit",
    [
        "yes ",
        "{",
        '{"answer":',
        "answer is ",
        "\\boxed{",
        "9",
        "1,",
        "1/",
        "**",
        "A) \n",
        "\n",
        "(",
        " ",
        "1,111,",
        "5 or ",
        "no ",
    ],
)
def test_megabytes_are_read_in_a_moment(unit):
    text = (unit * 500_000)[:500_000]
    for form in FORMS:
        started = time.thread_time()
        extract(text, parse_extraction(form))
        assert time.thread_time() - started < 2, form


@pytest.mark.parametrize(
    "name", ["", "json", "json:", "label:a", "label:a,,b", "label:a,A", "number:x", "regex", "llm:x"]
)
def test_what_is_no_extraction_is_refused(name):
    with pytest.raises(ValueError, match=r"unknown extraction|needs two or more labels|a label twice"):
        parse_extraction(name)
