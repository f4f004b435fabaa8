"""An evaluation that asks: each member once for each row, over HTTP; saved panels from the cache; refusals before any call."""

import base64
import json

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from consensus_flows.blocks.calibration import Calibration
from consensus_flows.blocks.consortium import Consortium, ConsortiumConfig
from consensus_flows.blocks.settings import Budget
from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.flows.calibrate import calibrate
from consensus_flows.flows.evaluate import evaluate
from consensus_flows.flows.free_text import evaluate_text
from consensus_flows.tasks.errors import BudgetError, ConfigurationError
from consensus_flows.tasks.evaluation.evaluation import SINGLE
from consensus_flows.tasks.evaluation.labelled import ids_digest, today
from tests.kits.command_kit import commands
from tests.kits.evaluation_kit import write_rows
from tests.vendors import ANY, Reply, json_reply

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
ROWS = 24
WRONG = {"a": 6, "b": 4, "c": 3}
"""Each model is wrong on every row whose number this divides."""
MEMBERS = [f"openai/{name}" for name in WRONG]
CONFIG = {"members": MEMBERS, "extract": "number"}


def answer(seen):
    number = int(seen.prompt.rsplit(" ", 1)[1].rstrip("?"))
    return Reply(text=f"The answer is {2 * number + (number % WRONG[seen.model] == 0) * ord(seen.model)}.")


@pytest.fixture
def labeled(vendors, tmp_path):
    vendors.script(ANY, then=answer)
    rows = [{"id": f"r{n}", "question": f"What is twice {n}?", "gold": 2 * n} for n in range(1, ROWS + 1)]
    return write_rows(tmp_path / "labeled.jsonl", rows)


async def test_each_member_is_asked_once_for_each_row_and_all_ways_to_ask_are_judged(labeled, vendors):
    made = await evaluate(str(labeled), "gold", config=CONFIG)
    assert vendors.count() == ROWS * len(MEMBERS)
    assert [member.right for member in made.members] == [20, 18, 16]
    assert made.plan("majority-listed").calls == ROWS * 3 and made.plan(SINGLE).calls == ROWS
    assert {"log-odds", "learned", "stop-2", "cascade-2"} <= {plan.plan for plan in made.plans}
    assert made.panels == ["majority-listed"] and made.flow_run_id
    async with get_client() as client:
        keys = ArtifactFilter(key=ArtifactFilterKey(any_=["evaluation", "evaluation-plans"]))
        assert len(await client.read_artifacts(artifact_filter=keys)) >= 2


async def test_what_was_asked_before_is_cached(labeled, vendors):
    await evaluate(str(labeled), "gold", config=CONFIG)
    again = await evaluate(
        str(labeled), "gold", config=CONFIG, split="half", plans=["cascade:openai/b,openai/c>openai/a"]
    )
    assert vendors.count() == ROWS * len(MEMBERS)
    assert again.plan("cascade:openai/b,openai/c>openai/a").calls < 3 * again.test


async def test_saved_panels_of_any_algorithm_are_really_asked_and_compared(labeled, vendors):
    judged = Reply(text=json.dumps({"synthesis": "4", "confidence": 0.9, "analysis": "", "dissent": ""}))
    vendors.script("judge", then=judged)
    await Vote(config=VoteConfig(**CONFIG, stop_when=2)).asave("two-of-three", overwrite=True)
    panel = ConsortiumConfig(members=MEMBERS, arbiter="openai/judge", max_iterations=1)
    await Consortium(config=panel).asave("council", overwrite=True)
    made = await evaluate(str(labeled), "gold", config=CONFIG, names=["two-of-three", "council"])
    assert made.panels == ["two-of-three", "council"] == [made.plans[0].plan, made.plans[1].plan]
    stopped, council = made.plan("two-of-three"), made.plan("council")
    assert ROWS * 2 <= stopped.calls < ROWS * 3 and stopped.right >= 20
    assert council.calls == ROWS * 4 and council.right == 1
    assert council.p_holm == 2 * council.p
    assert made.verdict.plan == "two-of-three"
    # Only the arbiter is new: what the members say is asked once, whoever needs it.
    assert vendors.count() == ROWS * (len(MEMBERS) + 1)


async def test_rows_that_a_panel_was_calibrated_on_are_refused(labeled, vendors):
    calibration = Calibration(
        rows=ROWS,
        ids_digest=ids_digest(f"r{n}" for n in range(1, ROWS + 1)),
        date=today(),
        extract="number",
        accuracy=0.9,
        interval=(0.8, 0.95),
        calls=3,
        unanimous=0.5,
        sure=0.5,
    )
    await Vote(config=VoteConfig(**CONFIG, calibration=calibration)).asave("fitted", overwrite=True)
    with pytest.raises(ConfigurationError, match="fitted was calibrated on 24 of these 24 rows"):
        await evaluate(str(labeled), "gold", config="fitted", names=["fitted"])
    assert vendors.count() == 0
    made = await evaluate(str(labeled), "gold", config="fitted", names=["fitted"], anyway=True)
    assert [note.members for note in made.notes if note.kind == "calibrated"] == [["fitted"]]


async def test_rows_of_another_file_that_a_panel_was_calibrated_on_are_counted(labeled, vendors, tmp_path):
    half = write_rows(
        tmp_path / "half.jsonl",
        [json.loads(line) | {"id": f"new{n}"} for n, line in enumerate(labeled.read_text().splitlines()[:12])],
    )
    (panel,) = await calibrate(str(half), "gold", config=CONFIG)
    await Vote(config=panel.config).asave("of-half", overwrite=True)
    before = vendors.count()
    with pytest.raises(ConfigurationError, match="of-half was calibrated on 12 of these 24 rows"):
        await evaluate(str(labeled), "gold", config="of-half", names=["of-half"])
    assert vendors.count() == before
    made = await evaluate(str(labeled), "gold", config="of-half", names=["of-half"], anyway=True)
    assert [(note.count, note.ids[0]) for note in made.notes if note.kind == "calibrated"] == [(12, "r1")]


async def test_rows_that_the_prompts_answer_are_refused(labeled, vendors, tmp_path):
    shown = tmp_path / "shown.toml"
    shown.write_text('[[examples]]\nuser = "what is  twice 3?"\nassistant = "6"\n')
    with pytest.raises(ConfigurationError, match="shows the members the answers of 1 of these rows: r3"):
        await evaluate(str(labeled), "gold", config={**CONFIG, "prompt_set": str(shown)})
    assert vendors.count() == 0


async def test_a_budget_that_ends_judges_nothing_and_loses_nothing(labeled, vendors):
    with pytest.raises(BudgetError, match="the answers are cached"):
        await evaluate(str(labeled), "gold", config=CONFIG, budget=Budget(max_calls=30))
    assert vendors.count() == 30
    assert (await evaluate(str(labeled), "gold", config=CONFIG)).test == ROWS
    assert vendors.count() == ROWS * len(MEMBERS)


def test_the_command_and_its_estimate(labeled, vendors, monkeypatch, capsys):
    run = commands(monkeypatch, capsys)
    asked = (
        "evaluate",
        labeled,
        "--label",
        "gold",
        *(part for name in MEMBERS for part in ("-m", name)),
        "--extract",
        "number",
    )
    tried = run(*asked, "--dry-run", "--json")
    assert tried.code == 0 and json.loads(tried.out)["members"]["calls_most"] == ROWS * 3 and vendors.count() == 0
    said = run(*asked, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert (found["rows"], found["extract"]) == (ROWS, "number") and "row_results" not in found
    over = run(*asked, "--fresh", "--max-calls", "10")
    assert over.code == 3 and "a larger budget" in over.err


def test_the_estimate_says_what_is_really_asked(labeled, vendors, monkeypatch, capsys):
    run = commands(monkeypatch, capsys)
    members = [part for name in MEMBERS for part in ("-m", name)]
    council = ("--flow", "consortium", *members, "--arbiter", "openai/judge", "--max-iterations", "1")
    tried = run("evaluate", labeled, "--label", "gold", *council, "--extract", "number", "--dry-run", "--json")
    found = json.loads(tried.out)
    assert list(found) == ["members", "consortium"] and vendors.count() == 0
    assert found["consortium"]["calls_least"] >= ROWS * 4


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
def pictures(vendors, tmp_path):
    """Rows of one question, each about a picture of its own."""

    def read(seen):
        (url,) = [part["image_url"]["url"] for part in seen.params["messages"][-1]["content"] if "image_url" in part]
        return Reply(text=f"It is {len(base64.b64decode(url.partition(',')[2])) - len(PNG)}.")

    vendors.script(ANY, then=read)
    for n in range(ROWS):
        (tmp_path / f"{n}.png").write_bytes(PNG + bytes(n))
    rows = [{"id": f"r{n}", "question": "How many?", "gold": n, "scan": f"{n}.png"} for n in range(ROWS)]
    return write_rows(tmp_path / "pictures.jsonl", rows)


@pytest.mark.parametrize("run", [evaluate, calibrate])
async def test_rows_may_be_about_files(pictures, vendors, run):
    made = await run(str(pictures), "gold", config=CONFIG, attach_column="scan")
    assert vendors.count() == ROWS * len(MEMBERS)
    if run is evaluate:
        assert [member.right for member in made.members] == [ROWS] * 3


async def test_free_text_may_be_about_files(pictures, vendors):
    judges = {"members": ["openai/judge"]}
    vendors.script("judge", then=json_reply({"better": "first"}))
    made = await evaluate_text(
        str(pictures), judges, flow="pump", config={"members": MEMBERS}, attach_column="scan", limit=2, anyway=True
    )
    assert made.rows == 2
    assert {seen.model for seen in vendors.seen if "image_url" in json.dumps(seen.params)} == {*WRONG}


def test_the_command_attaches_files(pictures, vendors, monkeypatch, capsys, tmp_path):
    consensus = commands(monkeypatch, capsys)
    members = [word for member in MEMBERS for word in ("-m", member)]
    arguments = ["evaluate", pictures, "--label", "gold", "--extract", "number", *members]
    vendors.script(ANY, then=Reply(text="It is 1."))
    picture = tmp_path / "1.png"
    assert consensus(*arguments, "--attach", picture, "--id-column", "id").code == 2, "one question, asked 24 times"
    (tmp_path / "3.png").unlink()
    ran = consensus(*arguments, "--attach-column", "scan", "--dry-run")
    assert (ran.code, vendors.count()) == (2, 0)
    assert "--attach-column: 1 files cannot be attached:\n  row r3: no such file: 3.png" in ran.err
