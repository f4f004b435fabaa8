"""The planted key again, through every flow: not in the history, a record, an artifact, an event, a log or a crash dump."""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_LOGGING_LEVEL,
    PREFECT_LOGGING_TO_API_BATCH_INTERVAL,
    PREFECT_RESULTS_LOCAL_STORAGE_PATH,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    temporary_settings,
)

from consensus_flows.blocks.check_models import CheckModelsConfig
from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig
from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.free_models import FreeModelsConfig
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.swarm import SwarmConfig
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.batch import batch
from consensus_flows.flows.check_models import check_models
from consensus_flows.flows.completion import completion
from consensus_flows.flows.consensus_learning import consensus_learning
from consensus_flows.flows.consortium import consortium
from consensus_flows.flows.mixture_of_agents import mixture_of_agents
from consensus_flows.flows.openrouter_models import openrouter_working_models
from consensus_flows.flows.prefer import prefer
from consensus_flows.flows.pump import pump
from consensus_flows.flows.swarm import swarm
from consensus_flows.flows.vote import vote
from tests.kits.asking import asking
from tests.safety.test_canary import BUILT_IN, CANARY, arrived, echo, key_of
from tests.vendors import ANY, LISTING, LoopbackVendors, Reply, SeenRequest, faults

MEMBERS = ["openai/m1", "anthropic/m2", "google/m3", "openrouter/m4"]
BAD = ["openai/bad401", "anthropic/bad401", "google/bad401", "openrouter/bad401"]
Q = "Question of the canary"


def flows(folder: Path, members: list[str], judge: str) -> dict[str, Any]:
    """Every flow with some members and a judge."""
    return {
        "consortium": lambda: consortium(Q, ConsortiumConfig(members=members, arbiter=judge), return_state=True),
        "vote": lambda: vote(Q, VoteConfig(members=members, extract="number"), return_state=True),
        "pairs": lambda: vote(Q, VoteConfig(members=members, pairwise_judge=judge), return_state=True),
        "pump": lambda: pump(Q, PumpConfig(members=members), return_state=True),
        "prefer": lambda: prefer(Q, PreferConfig(members=members), return_state=True),
        "learn": lambda: consensus_learning(
            Q, ConsensusLearningConfig(members=members, aggregator=judge), return_state=True
        ),
        "moa": lambda: mixture_of_agents(
            Q,
            MixtureOfAgentsConfig.model_validate({"layers": [",".join(members)], "aggregator": judge}),
            return_state=True,
        ),
        "swarm": lambda: swarm(Q, SwarmConfig(members=members, orchestrator=judge), return_state=True),
        "check": lambda: check_models(CheckModelsConfig(members=members), return_state=True),
        "completion": lambda: completion(Q, PumpConfig(members=members[:1]), return_state=True),
        "prompts": lambda: batch(
            str(folder / "prompts"),
            str(folder / "records" / "answers.jsonl"),
            flow="prefer",
            config={"members": members},
            records=str(folder / "records"),
            return_state=True,
        ),
        "batch": lambda: batch(
            str(folder / "rows.jsonl"),
            str(folder / "answers.jsonl"),
            flow="pump",
            config={"members": members},
            return_state=True,
        ),
        "working models": lambda: openrouter_working_models(
            FreeModelsConfig(output_dir=str(folder / "models"), interval=0), return_state=True
        ),
    }


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    keys = {variable: key_of(name) for name, variable in BUILT_IN.items()}
    with asking(tmp_path_factory.mktemp("canary"), CONSENSUS_RETRIES="0", **keys) as vendors:
        yield vendors


def answers(seen: SeenRequest) -> Reply:
    """Everybody repeats the key: members in an answer, whoever is called bad in an error."""
    if seen.model.startswith("bad"):
        made = echo(int(seen.model.removeprefix("bad")))
        return made if isinstance(made, Reply) else made(seen)
    # A good answer says it too.
    made = faults.key_repeated()
    return made if isinstance(made, Reply) else made(seen)


async def test_no_key_appears_anywhere(
    server: LoopbackVendors, caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = tmp_path / "history.db"
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{history}")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "one.md").write_text(Q)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": Q}) + "\n")
    server.script(ANY, then=answers)
    server.script(LISTING, then=echo(401))
    quick = {PREFECT_LOGGING_LEVEL: "DEBUG", PREFECT_LOGGING_TO_API_BATCH_INTERVAL: 0.1}
    dumps: list[str] = []
    ended: dict[str, list[str]] = {}
    with caplog.at_level(logging.DEBUG), temporary_settings(quick):
        # All fail; the judge alone fails; one of them fails.
        for members, judge in (
            (BAD, "openai/bad500"),
            (MEMBERS, "anthropic/bad500"),
            ([*MEMBERS[:3], BAD[3]], "openai/m9"),
        ):
            for name, start in flows(tmp_path, members, judge).items():
                state = await start()
                result = await state.aresult(raise_on_failure=False)
                ended.setdefault(name, []).append(state.type.value)
                dumps.append(f"{state.message} {result!r}")
                if isinstance(result, BaseException):
                    # All that a crash reporter would send: every frame with the values of its variables.
                    dump = traceback.TracebackException.from_exception(result, capture_locals=True)
                    dumps.append("".join(dump.format()))
                    dumps.append(repr(getattr(result, "record", None)))
    assert all(len(states) == 3 for states in ended.values())
    assert {name for name, states in ended.items() if states[0] == "FAILED"} >= {"consortium", "vote", "pump", "moa"}, (
        ended
    )
    everything = "\n".join(dumps)
    assert CANARY not in everything
    assert everything.count("[key]") > 20
    assert "locals" in everything or " = " in everything

    run = str(result)
    assert run
    database = Path("/") / urlsplit(PREFECT_SERVER_DATABASE_CONNECTION_URL.value()).path.lstrip("/")
    await arrived(database.parent, "Finished in state Failed")
    folders = {
        tmp_path,
        database.parent,
        Path(PREFECT_RESULTS_LOCAL_STORAGE_PATH.value()),
        Path(os.environ["PREFECT_HOME"]),
    }
    assert Q.encode() in b"".join(path.read_bytes() for path in tmp_path.glob("history.db*"))  # noqa: ASYNC240
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                assert CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in caplog.text
    async with get_client() as client:
        for route in ("/logs/filter", "/artifacts/filter", "/task_runs/filter", "/flow_runs/filter", "/events/filter"):
            response = await client.request("POST", route, json={})
            assert CANARY not in response.text, route
