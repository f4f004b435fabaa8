"""A text is read as the answer that it gives or not at all, never as another one; numbers are compared exactly."""

import time
from decimal import Decimal
from fractions import Fraction

import pytest

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.counting.extraction.extract import extract, extract_all
from consensus_flows.tasks.judging.judgements import Extraction
from tests.kits.consortium_kit import say

PRIME = 2**61 - 1
READ = {
    "The answer is 10^3.": 1000,
    r"\boxed{10^{3}}": 1000,
    "6.02 \u00d7 10^23": Decimal("6.02e23"),
    r"The answer is $3 \times 10^{8}$ m/s.": 300_000_000,
    "1e5": 100_000,
    "The answer is $1.5 million.": 1_500_000,
    r"\boxed{1.5 \text{ million}}": 1_500_000,
    "**5** million": 5_000_000,
    "1,234.5": Decimal("1234.5"),
    "1 000 000": 1_000_000,
    "The answer is 50%.": 50,
    "The answer is 1/2.": Fraction(1, 2),
    r"\boxed{-\frac{1}{2}}": Fraction(-1, 2),
    "about 5": 5,
    "~5": 5,
    "5 km": 5,
    "18€": 18,
    r"\boxed{90^\circ}": 90,
    "The answer is 3 + 4 = 7.": 7,
    "The answer is 18 because 9 * 2 = 18.": 18,
    "$5$": 5,
    "I do not think the answer is 5. The answer is 6.": 6,
    f"It is {PRIME}": PRIME,
    "The answer is 0.1": Decimal("0.1"),
    "\u22125": -5,
    "9" * 5000: Decimal("9" * 5000),
}
"""What a text in prose is as a number."""
NOT_READ = [
    *(
        r"\boxed{2^{10}}",
        "The answer is 10².",
        "The answer is 10**3",
        "5!",
        "The answer is $1.5M.",
        "1.5k",
        "1.5 Mio",
        "5 dozen",
    ),
    *(
        "5 hundred thousand",
        "5万",
        "5‰",
        "1.234,5",
        "1'234'567",
        "1_000",
        "1.000.000",
        "1٬234",
        "3,5",
        "0.333...",
        "0x1F",
    ),
    *(
        "3 1/2",
        "3½",
        "3-5",
        "3\u20135",
        "3 to 5",
        "between 3 and 5",
        ">5",
        "at least 5",
        "more than 5",
        "5+",
        "±2",
        "2 ± 1",
    ),
    *("x = 5 or 6", "x = 5 or x = 6", "x = 5, y = 6", "The answer is 5 or 6.", "The answer is 5, 6.", r"\boxed{5,6}"),
    *(
        r"\boxed{(1, 2)}",
        r"\boxed{5} or \boxed{6}",
        r"\boxed{5 \text{ or } 6}",
        r"\boxed{2\sqrt{3}}",
        r"\boxed{5\pi}",
        "log 5",
    ),
    *(
        r"\boxed{x^2+1}",
        "2x + 3",
        "x - 2",
        "9 - 5",
        "x = - 5",
        "minus 5",
        "5 + x",
        "1 of 2",
        "3 out of 5",
        "GPT-4",
        "H2O",
    ),
    *("The answer is not 5.", "The answer isn't 5.", "I do not think the answer is 5.", "If the answer is 5, stop"),
    *(
        "The answer is 5? No, the answer is seven.",
        "The answer is five. It took 3 steps.",
        "It cannot be determined from 5.",
    ),
    *("10:30", "2024-05-06", "12/25/2024", "5 hours and 30 minutes", "5 feet 3 inches", "5'11\"", "4 blue, 6 red"),
    *("10-year-old", "version 1.2.3", "192.168.0.1", "555 1234", "Paris has 42 bridges [1]."),
]
"""Texts in prose that are no number, or could be two."""


def values(form, *texts):
    return [found and found.value for found in extract_all(texts, parse_extraction(form))]


def fields(*written):
    return values("json:answer", *(f'{{"answer": {one}}}' for one in written))


@pytest.mark.parametrize("text", READ)
def test_a_number_is_read_exactly_and_shown_as_it_is_written(text):
    found = extract(text, parse_extraction("number"))
    assert found is not None
    assert found.value == READ[text]
    assert found.text in text


@pytest.mark.parametrize("text", NOT_READ)
def test_what_is_only_part_of_something_is_not_read(text):
    assert values("number", text) == [None]


@pytest.mark.parametrize("form", ["number", "text", "json:answer", "text:answer"])
def test_integers_of_any_size_are_compared_exactly(form):
    texts = [str(PRIME), str(PRIME + 1), str(PRIME - 1)]
    if ":" in form:
        texts = [f'{{"answer": {text}}}' for text in texts]
    found = extract_all(texts, parse_extraction(form))
    assert [one and one.value for one in found] == [PRIME, PRIME + 1, PRIME - 1]
    assert [one and one.text for one in found] == [str(PRIME), str(PRIME + 1), str(PRIME - 1)]


def test_decimals_are_decimals():
    assert len(set(values("number", "1.50", "1.5", "3/2", r"\boxed{\frac{3}{2}}", "15e-1"))) == 1
    assert len(set(values("number", "0.1", "0.1000000000000000055", "0.10"))) == 2
    assert len(set(fields("0.1", "0.1000000000000000055", '"0.10"'))) == 2
    assert len(set(values("text", "42.0", "42", "**42**", "(42)."))) == 1
    assert Extraction.read('{"answer": 0.1000000000000000055}').answer == "0.1000000000000000055"
    assert Extraction.read(f'{{"answer": {"9" * 5000}}}').answer == "9" * 5000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[1,2]", "[1,3]"),
        ('{"x": 1}', '{"x": 2}'),
        ('["a", "b"]', '["a", "c"]'),
        ('"10:30"', '"10:45"'),
        ('"May 5, 2024"', '"May 5, 2023"'),
        ('"H2O"', '"CO2"'),
        ('"3-5"', '"3-6"'),
        ('"00123"', '"123"'),
        ('"3,5"', '"35"'),
        ('"Apollo 11"', '"Gemini 11"'),
        ('"10^3"', '"10"'),
        ('"$1.5 million"', '"1.5"'),
        ('"2:00 pm"', '"2:10 pm"'),
        ('"5!"', "5"),
    ],
)
def test_fields_that_differ_are_never_one_answer(one, other):
    first, second = fields(one, other)
    assert first != second
    cut = [f'{{"reasoning": "cut \\", "answer": {text}, "more": "' for text in (one, other)]
    first, second = values("json:answer", *cut)
    assert first != second or first is None


def test_a_field_is_one_value_however_it_is_spaced():
    assert len(set(fields("[1,2]", "[1, 2]", '"[1, 2]"'))) == 1
    assert len(set(fields('{"a": 1, "b": [2]}', '{"b":[2],"a":1}'))) == 1
    assert values("json:answer", '{"answer": "x", "b": ["a", "c"')[0] == "x"
    assert values("json:answer", '{"answer": ["a", "c"') == [None]
    assert fields("18", '"18 dollars"', '"$18.00"', "[18]", '"Not determined in 18 days"') == [
        18,
        18,
        18,
        "[18]",
        "not determined in 18 days",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("00123", "123"),
        ("$18", "€18"),
        ("0.5", "50%"),
        ("0.5", "0.5%"),
        ("1/2", "2/4"),
        ("10²", "102"),
        ("5 km", "5 m"),
        ("12,5", "125"),
        ("1.234,5", "1234.5"),
        ("(555) 1234", "5551234"),
    ],
)
def test_texts_that_differ_are_never_one_answer(one, other):
    first, second = values("text", one, other)
    assert first != second


def test_a_sign_counts_only_where_it_makes_a_difference():
    assert values("text", "$18", "18", "18.00") == [18, 18, 18]
    assert values("text", "50%", "50") == [50, 50]
    assert values("text", "$18", "18", "€18") == [("$", 18), ("", 18), ("€", 18)]
    assert values("text", "50%", "50", "0.5") == [("%", 50), ("", 50), ("", Decimal("0.5"))]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("I do not think the answer is no", None),
        ("I doubt the answer is no.", None),
        ("If the answer is no, we stop.", None),
        ("Is the answer no?", None),
        ("The answer is yes or no", None),
        ("I have no idea", None),
        ("There is no doubt about it", None),
        ("I do not think the answer is no. The answer is yes.", "yes"),
        ("It is not raining, so the answer is no.", "no"),
        ("I say no because of that", "no"),
    ],
)
def test_a_label_that_is_denied_is_not_chosen(text, label):
    assert values("label:yes,no", text) == [label]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("I do not think the answer is B.", None),
        ("If the answer is B, stop", None),
        ("The answer is A or B.", None),
        ("Answer: A, C", None),
        ("B) Paris is wrong", None),
        ("I would not really choose B", None),
        ("The answer is B, A is wrong", "B"),
        ("I do not think the answer is A. The answer is B.", "B"),
        ("I don't think it's A, I'd choose B.", "B"),
    ],
)
def test_a_letter_that_is_denied_or_one_of_two_is_not_chosen(text, letter):
    assert values("choice", text) == [letter]


@pytest.mark.parametrize(
    "unit", ["1,111,", "5 or ", "1 ", "x = 5, ", "5^", "1e5 ", "choose B ", "answer is no ", "5 \\text{", "9"]
)
def test_a_megabyte_is_read_in_linear_time(unit):
    for form in ("number", "text", "json:answer", "choice", "label:yes,no", "label:A,B"):
        text = (unit * 1_000_000)[:1_000_000]
        text = text if form != "json:answer" else f'{{"answer": "{text}"}}'.replace("\\", "")
        started = time.thread_time()
        extract(text, parse_extraction(form))
        assert time.thread_time() - started < 3, form


@pytest.mark.usefixtures("results")
@pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted")
async def test_the_answer_of_a_vote_is_one_that_a_member_wrote(vendors):
    members = ["openai/one", "openai/two", "openai/three"]
    say(vendors, one=str(PRIME), two=str(PRIME + 1), three=str(PRIME - 1))
    for form in ("text", "number"):
        record = await run_vote("Which?", VoteConfig(members=members, extract=form))
        assert (record.answer, record.agreement, len(record.tally)) == (str(PRIME), 0.3333, 3)
    say(vendors, one='{"answer": ""}', two='{"answer": " "}', three='{"answer": "\'\'"}')
    record = await run_vote("What is left?", VoteConfig(members=members, extract="exact:answer"))
    assert (record.answer, record.status, [one.votes for one in record.tally]) == ("", "finished", [2, 1])
    say(vendors, one="The answer is 7.", two="The answer is $1,200.50.", three="1200.5")
    record = await run_vote("How much?", VoteConfig(members=members, extract="number"))
    assert [(one.answer, one.votes) for one in record.tally] == [("$1,200.50", 2), ("7", 1)]
