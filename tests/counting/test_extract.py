"""What is read as an answer, and what is not: an abstention is never a vote."""

import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.tasks.counting.extraction.choices import chosen_label, chosen_letter
from consensus_flows.tasks.counting.extraction.extract import extract, extract_all, extract_label
from consensus_flows.tasks.counting.extraction.json_field import field_of
from consensus_flows.tasks.counting.extraction.numbers import stated_number

FORMS = [
    "number",
    "choice",
    "choice:A-D",
    "json:answer",
    "label:yes,no",
    "label:A,B",
    "text",
    "text:answer",
    "exact:answer",
    "llm",
]


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
        # in brackets, or with one or a full stop behind it, it is no article and no pronoun
        ("The answer is (A) 8.9.", "A"),
        ("The answer is (I) 25%.", "I"),
        (r"\text{The answer is (A)}", "A"),
        (r"The answer is \( \text{E} \).", "E"),
        (r"The answer is $\mathbf{A}$", "A"),
        ("**Answer: (A) Paris**", "A"),
        ("The answer is **(A)** the first one", "A"),
        ("The correct option is A) 12", "A"),
        ("The correct answer is **I**) none", "I"),
        ("Answer: A. Paris is the capital", "A"),
        ('{"reasoning": "it fits", "answer": "(A) Paris"}', "A"),
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
    assert value("The answer is (K).", "choice") == "K"
    assert value("The answer is (K).", "choice:A-J") is None
    assert value("The answer is (K). So the answer is (J).", "choice:A-J") == "J"
    assert value("N", "choice: a - d") is None
    assert parse_extraction("choice:A-J").labels == tuple("ABCDEFGHIJ")
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
        # the field of an object, whatever is written behind it
        ('{"answer": "140"}\n\nThe key steps are:\n1. Add.\n2. Halve.', 140),
        ('{"reasoning": "1 + 2", "answer": 3, "steps": 2}', 3),
        ('{"answer": "5 * 8 = 40 eggs"}\nStep 2 is the hard one.', 40),
        ('{"answer": "12,000"}\n\nThe answer is 12,000 eggs in 3 weeks.', 12000),
        ('{"answer": "12"}\n\nWait. The answer is 13.', 13),
        ('{\\"answer\\": \\"7\\"} in 2 steps', 7),
        ('{"answer": "cannot be told"} in 2 steps', None),
        ('{"answer": "Paris"} in 2 steps', None),
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
        (r'{"reasoning": "so \(x\)", "answer": "7"} or {"reasoning": "___", "answer": "___"}', "7"),
        (r'{"answer": "\frac{1}{2}"}', r"\frac{1}{2}"),  # an escape, but of no JSON that is meant
        (r'{"answer": "2 \times \beta"}', r"2 \times \beta"),
        (r'{"answer": "\\frac{1}{2}\n\tx \u00e9 it\'s"}', "\\frac{1}{2}\n\tx \u00e9 it's"),
        # a form that is not filled in
        ('{"answer": "___"}', None),
        ('{"answer": "___"} {"answer": 6}', "6"),
        ('{"answer": {"width": "___", "height": "___"}}', None),
        ('"answer": "___", then "answer": 6', "6"),
        ('{"answer": "a___b"}', "a___b"),
        # no object
        (r"So it is $\boxed{\frac{\sqrt{3}}{2}}$.", r"\frac{\sqrt{3}}{2}"),
        (r"First \boxed{1}, then \boxed {25}.", "25"),
        (r'{"answer": null}, or \boxed{25}', None),
        (r"\boxed{25", None),
        ('{"answer": 1,200.5, "reasoning": "cut o', "1,200.5"),
        ('{"answer": "a \\" b", "reasoning": "cut o', 'a " b'),
        ('{"answer": null}', None),
        ('{"reasoning": "cut", "answer": null', None),
        ("the answer: 5", None),
    ],
)
def test_fields(text, expected):
    assert field_of(text, "answer") == expected


def field(written, form="json:answer"):
    return value(f'{{"answer": {written}}}', form)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ('"$1,200"', 1200),
        ("1200.0", 1200),
        ('"18 dollars"', 18),
        ('"55 m/s"', 55),
        ('"20kg"', 20),
        ('"$10,000/day"', 10000),
        ('"3 cubic feet"', 3),
        ('"90^\\circ"', 90),
        ('"12 \\text{ cm}^2"', 12),
        ('"50%"', 50),
        ('"1/2"', Fraction(1, 2)),
        ('"-\\frac{1}{2}"', Fraction(-1, 2)),
        (r'"-\\frac{1}{2}"', Fraction(-1, 2)),
        (r'"$\boxed{5}$"', 5),
        ('"about 5 hours"', 5),
        ('"(42)."', 42),
        ('"x = 18"', 18),
        ('"3*4 + 5 = 17"', 17),
        ('"3 * 24 = 72 = 32 feet"', 32),
        ('"The answer is 18."', 18),
        ('"The total cost is $9."', 9),
        ('"Ann has 18 eggs."', 18),
        ('"He made $110 today, no loss."', 110),
    ],
)
def test_a_field_is_a_number_if_all_of_it_is_one(written, number):
    assert field(written) == number


@pytest.mark.parametrize(
    "written",
    [
        *(
            "2024-03-05",
            "[1, 2, 3]",
            "p - 2",
            "p-2",
            "i-1",
            r"\\frac{a-1}{1-a}",
            "((300 * 4) + 5) / 12",
            "x + 1",
            "6√2",
        ),
        *(
            "10:30",
            "3, 5",
            "12 or 13",
            "x = 5, y = 6",
            "1.000.000",
            "00123",
            "H2O",
            "Apollo 11",
            "Lyon 2e",
            "3 pm",
            "44 BC",
        ),
        *("5 May", "10 Downing Street", "5 dozens", "2 and a half", "5x", "9/sqrt(2)", "9 let it!", "#1 8", "50π/2"),
        *(
            "4 blue, 6 red",
            "5 hours and 30 minutes",
            "over 18 hours",
            "not 5",
            "the total is not 5",
            "cannot be determined",
        ),
        *("The war ended in 1945.", "Apollo 11 was the first one.", "It is 3 or 4 of them."),
    ],
)
def test_a_field_that_holds_a_number_is_a_text(written):
    read = field(f'"{written}"')
    assert isinstance(read, str)
    assert read == field(f'"{written.upper()}"', "text:answer")


def test_a_field_is_read_the_same_whoever_else_is_asked():
    form = parse_extraction("json:answer")
    texts = [
        f'{{"answer": {one}}}'
        for one in ("42", '"Paris"', '"cannot be determined"', '{"x": 1200}', "[18]", '""', "null")
    ]
    together = extract_all(texts, form)
    assert together == [extract(text, form) for text in texts]
    assert [one and one.value for one in together] == [
        42,
        "paris",
        "cannot be determined",
        '{"x": 1200}',
        "[18]",
        None,
        None,
    ]
    assert extract_all([None, "nothing"], form) == [None, None]
    assert field("true") == "true"


def test_a_sentence_that_denies_an_answer_is_an_abstention():
    assert field('"It is not possible to say how many there are."') is None
    assert field('"The pie is round and brown."') == "the pie is round and brown"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("AbB", "AbB"),
        ("  a  b ", "  a  b "),
        ("NET..", "NET.."),
        ("'  7  '", "  7  "),
        ("007", "007"),
        ('""', ""),
        ("```python\nprint('x')\n```", "print('x')"),
        ("x\n", "x"),
        ("'a' + 'b'", "'a' + 'b'"),
        ("'{'a': -1, 'b': [1]}'", "{'a': -1, 'b': [1]}"),
        ("'[1]', '[2]'", "'[1]', '[2]'"),
        ("**a**", "**a**"),
    ],
)
def test_exact_texts_are_compared_as_they_are(text, read):
    assert extract(text, parse_extraction("exact")) == (read, read)


def test_exact_fields_are_compared_as_they_are():
    assert [field(one, "exact:answer") for one in ('"AbB"', '" a "', "\"'a'\"", '""', "7.0", "true")] == [
        "AbB",
        " a ",
        "a",
        "",
        "7.0",
        "true",
    ]
    assert field('"a\\n"', "exact:answer") == "a\n"
    assert [field("null", "exact:answer"), field('"___"', "exact:answer"), value("{}", "exact:answer")] == [None] * 3
    assert value('{"answer": }', "exact:answer") is None


@pytest.mark.parametrize(
    ("form", "label", "text"),
    [
        ("json:answer", "18", '{"answer": "$18.00"}'),
        ("json:answer", 18, '{"answer": "18 eggs"}'),
        ("json:answer", "Paris", '{"answer": "paris."}'),
        ("exact:answer", "", '{"answer": ""}'),
        ("text:answer", {"w": 3}, '{"answer": {"w":3}}'),
        ("choice:A-J", "b", "The answer is (B)."),
        ("number", "1,200", "The answer is $1200."),
        ("label:yes,no", "Yes", "yes"),
        ("exact", "a b", "'a b'"),
    ],
)
def test_a_label_is_read_as_the_answers_are(form, label, text):
    read = extract_label(label, parse_extraction(form))
    assert read is not None
    assert read.value == value(text, form)


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
    assert found is None or found.text or form == "exact:answer"
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
    "name",
    [
        *("", "json:", "label:a", "label:a,,b", "label:a,A", "number:x", "regex", "llm:x"),
        *("choice:", "choice:A", "choice:J-A", "choice:A,B", "exact:"),
    ],
)
def test_what_is_no_extraction_is_refused(name):
    with pytest.raises(
        ValueError, match=r"unknown extraction|needs two or more labels|a label twice|first and the last letter"
    ):
        parse_extraction(name)
