"""What a run shows in Prefect: artifacts, events and a form; and that model text in them stays text."""

import asyncio
import json
import re
from types import SimpleNamespace
from unittest.mock import ANY

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from prefect.client.orchestration import get_client

from consensus_flows.flows.consortium import consortium, page
from consensus_flows.tasks.plain_text import visible
from consensus_flows.tasks.record import CallError, Iteration, Response, Synthesis
from consensus_flows.tasks.reports.markdown import LIMIT, cell, prose, quoted
from consensus_flows.tasks.reports.report import Report, calls_table, key, run_name
from consensus_flows.tasks.watch import emit, watched_by
from tests.kits.consortium_kit import config, judged
from tests.kits.history_kit import record
from tests.vendors import faults

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")
NASTY = [
    "<script>alert(1)</script>",
    "<img src=https://evil.example/x.png onerror=alert(1)>",
    "![tracker](https://evil.example/x.png)",
    "[click](javascript:alert(1))",
    "```\n<b>out</b>\n```",
    "``````\nout",
    "~~~\n![x](https://evil.example)\n~~~",
    "   ```\n   out",
    "\n\n# heading\n\n- list\n\n    code\n\n> quote",
    "[ref]: javascript:alert(1)\n[ref]",
    "| a | b |\n|---|---|\n| <i> | `x |",
    "<!--",
    "\r```\r<b>",
    "&lt;script&gt; &#60;b&#62;",
    "\x0b```\x0c```\u2028```\x85```",
    "",
]
texts = st.one_of(
    st.sampled_from(NASTY),
    st.text(),
    st.text(alphabet="`~<>![]()\n\r\t #*|x:", max_size=60),
    st.lists(st.text()).map("\n".join),
)


def lines(text):
    """Text as markdown keeps it: one kind of line end."""
    return text.replace("\r\n", "\n")


def outside(markdown):
    """All that would be rendered as something other than a quotation or a fenced text."""
    found, depth = [], 0
    for token in MARKDOWN.parse(markdown):
        depth += {"blockquote_open": 1, "blockquote_close": -1}.get(token.type, 0)
        if not depth and token.type not in {"fence", "blockquote_close"}:
            found.append(token)
    return found


@given(texts)
@example("`" * 500)
@example("```text\n" * 50)
def test_a_quotation_is_one_fence_and_nothing_else(text):
    (token,) = MARKDOWN.parse(quoted(text))
    assert token.type == "fence"
    assert token.info == "text"
    assert token.content == lines(visible(text) + "\n")


@given(texts)
@example("- a\n\n  ```\n  - ![x](https://evil.example)\n  ```\n1. b\n> c\n> > d")
@example("| a |\n|---|\n| ![x](https://evil.example) `|` <b> |")
@example("**b** *e* `c` \\<i> &lt;b&gt; &#10;# www.evil.example https://evil.example a@evil.example")
@example("*a_ " * 2000)
def test_prose_is_one_quotation_with_nothing_to_click_or_to_fetch(text):
    tokens = MARKDOWN.parse(prose(text))
    assert (tokens[0].type, tokens[-1].type) == ("blockquote_open", "blockquote_close")
    assert sum(token.level == 0 for token in tokens) == 2
    spans = {child.type for token in tokens for child in token.children or []}
    assert spans <= {"text", "text_special", "code_inline", "softbreak", "hardbreak"} | {
        f"{kind}_{end}" for kind in ("em", "strong") for end in ("open", "close")
    }
    assert not {token.type for token in tokens} & {"html_block", "code_block"}
    assert {token.info for token in tokens if token.type == "fence"} <= {"text"}


def test_prose_keeps_what_can_be_read():
    text = "Two **reasons**:\n\n1. a\n2. b\n   - c\n\n| x | y |\n|---|---|\n| 1 | 2 |\n\n```sql\nSELECT *;\n```\n\n# Title\nend"
    html = MARKDOWN.render(prose(text))
    for part in ("<strong>reasons</strong>", "<ol>", "<li>c</li>", "<td>2</td>", "SELECT *;", "<h4>Title</h4>", "end"):
        assert part in html
    for shown in (prose, cell):  # what the UI would make a link of by itself
        assert not re.search(r"(?<!\\)://|www\.", shown("see https://evil.example and WWW.evil.example"))
    assert prose("a@evil.example") == "> a\\@evil.example"


def test_prose_is_read_as_it_was_written_in_a_page_that_knows_no_character_references():
    """As that of Prefect: what is escaped there by a reference reads `not&#95;found`."""
    text = "not_found, 2 * 3 < 7 & a@b | [c] `d"
    assert "&#" not in prose(text)
    assert "".join(token.content for token in MARKDOWN.parseInline(prose(text)[2:])[0].children) == text


@given(texts)
def test_a_cell_holds_no_link_no_image_no_html(text):
    shown = cell(text)
    assert "\n" not in shown
    assert len(shown) <= 300
    for token in MARKDOWN.parse(f"| a |\n|---|\n| {shown} |"):
        for inner in token.children or []:
            assert inner.type in {"text", "text_special", "em_open", "em_close", "strong_open", "strong_close"}
    assert not any(token.type == "html_block" for token in MARKDOWN.parse(shown))


def iteration(text, synthesis=True, *, chosen=None):
    answered = Response(member="openai/one#1", provider="openai", model="one", text=text)
    answered.reasoning, answered.citations = text, [text, text]
    error = CallError(kind="bad_request", message=f"openai/two: bad_request: {text}")
    failed = Response(member="openai/two#1", provider="openai", model="two", error=error)
    made = Synthesis(
        text=text,
        confidence=0.5,
        analysis=text,
        dissent=text,
        refinement_areas=[text, text],
        arbiter="p/m",
        chosen=chosen,
    )
    return Iteration(number=1, responses=[answered, failed], synthesis=made if synthesis else None, agreement=0.25)


@given(texts, st.booleans())
@example("x" * (LIMIT + 1), True)
def test_nothing_that_a_model_wrote_leaves_its_fence(text, synthesis):
    """Whatever the text, what is rendered around the fences is the same."""
    seen, plain = (outside(page(iteration(said, synthesis))) for said in (text, "plain"))
    optional = {"Dissent", "Open points", "Analysis", "Reasoning before it:"} if not text.strip() else set()
    for wanted in plain:
        if wanted.type == "inline" and wanted.content not in optional:
            assert any(wanted.content == token.content for token in seen)
    assert {token.content for token in seen} <= {token.content for token in plain}
    assert len(seen) <= len(plain)


@pytest.mark.parametrize("name", ["openai/`<img src=x>`", "local/![x](https://evil.example)", "p/[x](javascript:1)"])
def test_a_members_name_is_no_markup_either(name):
    shown = iteration("text", chosen=name)
    shown.responses[0].member = name
    shown.synthesis.arbiter = name
    inner = [child.type for token in outside(page(shown)) for child in token.children or []]
    assert set(inner) <= {"text", "code_inline", "strong_open", "strong_close"}


def test_what_is_kept_apart_from_an_answer_is_shown_as_such():
    shown = page(iteration("the <b>text</b>"))
    assert shown.count("the \\<b\\>text") > 3
    assert "Reasoning before it:\n\n> the \\<b\\>text\\</b\\>" in shown
    assert (
        "Sources that it names (nobody has looked them up):\n\n```text\nthe <b>text</b>\nthe <b>text</b>\n```" in shown
    )
    plain = iteration("x")
    plain.responses[0].reasoning, plain.responses[0].citations = None, []
    assert "Reasoning" not in page(plain)
    assert "Sources" not in page(plain)


def test_the_measure_of_the_agreement_is_named():
    shown = iteration("x")
    assert "**agreement** 25 % (measured)" in page(shown)
    shown.agreement_measure = "embedding:openai/text-embedding-3-small"
    assert "**agreement** 25 % by `embedding:openai/text-embedding-3-small`" in page(shown)


def test_a_long_text_is_cut_and_says_so():
    assert f"({LIMIT + 1} characters in all)" in quoted("x" * (LIMIT + 1))


def test_keys_are_what_prefect_takes():
    assert key("Consensus Learning_2") == "consensus-learning-2"


async def read(client, kind, body):
    return (await client.request("POST", f"/{kind}/filter", json=body)).json()


async def events_of(client, flow_run_id, wanted):
    found = {}
    for _ in range(150):
        # Other tests' runs have events too, and a page holds 50.
        about = {"event": {"prefix": ["consensus."]}, "resource": {"id": [f"consensus.run.{flow_run_id}"]}}
        body = {"filter": about | {"order": "ASC"}, "limit": 50}
        found = (await read(client, "events", body))["events"]
        if len(found) >= wanted:
            return found
        await asyncio.sleep(0.1)
    return found


@pytest.mark.usefixtures("results")
async def test_every_iteration_is_shown_and_told_of(vendors):
    vendors.script("arbiter", judged(20, "![x](https://evil.example)"), judged(40, "later", dissent="no", analysis=""))
    vendors.script("three", then=faults.unauthorized("<b>key</b>"))
    record = await consortium("What?", config(max_iterations=2))
    async with get_client() as client:
        run_id = str(record.flow_run_id)
        artifacts = await read(
            client, "artifacts", {"artifacts": {"flow_run_id": {"any_": [run_id]}}, "sort": "CREATED_DESC"}
        )
        shown = {(one["type"], one["key"], one["description"]): one["data"] for one in artifacts if one["key"]}
        assert sorted(shown) == [
            ("markdown", "answer", ANY),
            ("markdown", "consortium-iteration", "Iteration 1"),
            ("markdown", "consortium-iteration", "Iteration 2"),
            ("progress", "consortium-progress", "Confidence after iteration 2"),
            ("table", "consortium-calls", "Calls of iteration 1"),
            ("table", "consortium-calls", "Calls of iteration 2"),
        ]
        second = shown["markdown", "consortium-iteration", "Iteration 2"]
        for text in (
            "**Confidence** 40 %",
            "**agreement** ",
            "## Synthesis",
            "later",
            "## Dissent",
            "openai/one#1",
            "## Failed",
        ):
            assert text in second
        assert "## Analysis" not in second
        first = shown["markdown", "consortium-iteration", "Iteration 1"]
        assert not [token for token in outside(first) if token.type == "html_block" or "evil" in token.content]
        rows = json.loads(shown["table", "consortium-calls", "Calls of iteration 1"])
        assert [(row["role"], row["member"], row["cached"], row["attempts"]) for row in rows] == [
            ("member", "openai/one#1", "no", 1),
            ("member", "openai/two#1", "no", 1),
            ("member", "openai/three#1", "no", 1),
            ("arbiter", "openai/arbiter", "no", 1),
        ]
        assert set(rows[0]) >= {"latency s", "input tokens", "output tokens", "cost USD", "error"}
        assert rows[0]["input tokens"] > 0
        assert "auth" in rows[2]["error"]
        assert "<" not in rows[2]["error"]
        assert shown["progress", "consortium-progress", "Confidence after iteration 2"] == 50.0

        events = await events_of(client, run_id, 4)
    assert [event["event"] for event in events] == [
        "consensus.iteration.ended",
        "consensus.iteration.ended",
        "consensus.run.ended",
        "consensus.run.below-threshold",
    ]
    assert events[0]["payload"]["failed_members"] == ["openai/three#1"]
    assert (events[1]["payload"]["iteration"], events[1]["payload"]["confidence"]) == (2, 0.4)
    assert events[3]["payload"]["status"] == "max_iterations"
    assert (events[3]["payload"]["confidence"], events[3]["payload"]["threshold"]) == (0.4, 0.8)
    assert events[3]["related"][0]["prefect.resource.id"] == f"prefect.flow-run.{run_id}"


@pytest.mark.usefixtures("results")
async def test_a_run_without_an_answer_is_shown_too(vendors):
    for model in ("one", "two", "three"):
        vendors.script(model, then=faults.unauthorized())
    state = await consortium("What?", config(), return_state=True)
    run_id = str(state.state_details.flow_run_id)
    async with get_client() as client:
        artifacts = await read(client, "artifacts", {"artifacts": {"flow_run_id": {"any_": [run_id]}}})
    shown = {one["key"]: one["data"] for one in artifacts if one["type"] == "markdown"}
    assert "## No answer" in shown["answer"]
    markdown = shown["consortium-iteration"]
    assert "Too few members answered" in markdown
    assert "openai/three#1: openai/three: auth" in markdown


async def test_a_view_that_breaks_does_not_end_the_run(caplog):
    class Broken:
        async def on_event(self, event, value):
            raise RuntimeError("no terminal")

    class Fine:
        def __init__(self):
            self.heard = []

        async def on_event(self, event, value):
            self.heard.append(event)

    fine = Fine()
    with watched_by(Broken(), fine):
        await emit("started", None)
    await emit("ended", None)
    assert fine.heard == ["started"]
    assert "Broken could not show started" in caplog.text


def schema(part, definitions):
    return definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part


def test_the_form_explains_itself():
    form = consortium.parameters
    assert list(form.properties) == ["prompt", "config", "conversation", "attachments"]
    assert form.required == ["prompt"]
    for position, field in enumerate(form.properties.values()):
        assert field["position"] == position
        assert field["description"], "the docstring's text reaches the field"
    definitions = form.definitions
    fields = definitions["ConsortiumConfig"]["properties"]
    assert fields["judging_method"]["enum"] == ["synthesize", "rank"]
    assert fields["keep"]["enum"] == ["best", "last"]
    assert (fields["confidence_threshold"]["minimum"], fields["confidence_threshold"]["maximum"]) == (0, 1)
    assert fields["max_iterations"]["minimum"] == 1
    for name in ("ConsortiumConfig", "Sampling", "Budget"):
        described = definitions[name]["properties"]
        assert all(field.get("description") for field in described.values()), name
        positions = [field["position"] for field in described.values()]
        assert len(set(positions)) == len(positions), "a place for each"
    assert sorted(fields, key=lambda name: fields[name]["position"])[:2] == ["members", "arbiter"]
    assert fields["quorum"]["type"] == "integer", "a plain field, and not one of the type None"


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"members": []}, "config.members"),
        ({"members": ["gpt-6"]}, "config.members"),
        ({"members": ["openai/one:0"]}, "config.members"),
        ({"arbiter": "openai/x:2"}, "config.arbiter: Value error, 'openai/x:2' must not have a count"),
        ({"arbiter": "judge"}, "config.arbiter"),
        ({"fallback_arbiters": ["openai/x", "judge"]}, "config.fallback_arbiters"),
        ({"min_iterations": 4}, "min_iterations is 4, more than max_iterations"),
        ({"confidence_threshold": 80}, "config.confidence_threshold"),
        ({"judging_method": "vote"}, "config.judging_method"),
        ({"quorum": 4}, "quorum is 4, but there are only 3 members"),
        ({"temperature": 1}, "config.temperature"),
        ({"sampling": {"temperature": 9}}, "config.sampling.temperature"),
        ({"member_settings": {"openai/four": {}}}, "member_settings: 'openai/four' is not a member"),
    ],
)
@pytest.mark.usefixtures("results")
async def test_what_is_wrong_in_the_form_is_said_before_any_call(vendors, settings, cause):
    plain = config().model_dump(mode="json") | settings
    state = await consortium("What?", plain, return_state=True)
    assert state.is_failed()
    assert re.search(rf"\b{re.escape(cause)}", state.message) and "config.str" not in state.message, state.message
    assert vendors.count() == 0


def test_a_run_is_named_after_its_question(monkeypatch):
    from consensus_flows.tasks.reports import report

    run = SimpleNamespace(parameters={"prompt": "  a\n b " + "x" * 100})
    monkeypatch.setattr(report, "flow_run", run)
    assert run_name() == "a b " + "x" * 55 + "…"


@pytest.mark.parametrize(
    "name", ["openai/<img src=https://evil.example/x.png>#1", "local/![x](https://evil.example)#1"]
)
def test_a_members_name_is_no_markup_in_the_table_either(name):
    """The UI renders the HTML in a cell: a browser would fetch the picture."""
    row = calls_table(Iteration(number=1, responses=[Response(member=name, provider="p", model="m", text="x")]))[0]
    assert not set("<>[]!") & set(row["member"])


async def test_the_answer_is_written_beside_the_artifacts_before_it(prefect_server):
    answered = asyncio.Event()

    class Slow(Report):
        async def _create(self, artifact):
            if artifact.key == "answer":
                answered.set()
            await answered.wait()

    report, found = Slow(), record()
    await report.on_event("started", found)
    await report.on_event("iterated", found.iterations[0])
    async with asyncio.timeout(10):
        await report.on_event("ended", found)
