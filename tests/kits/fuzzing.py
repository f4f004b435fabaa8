"""What the fuzzers share: texts that are nearly right, and functions that must end in a value or in an error of ours."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from pydantic import ValidationError

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig
from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.member import members_of, parse_member
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.swarm import SwarmConfig
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.check_cases import read_cases
from consensus_flows.tasks.counting.extraction.extract import extract_all
from consensus_flows.tasks.errors import ConsensusError
from consensus_flows.tasks.judging.judge import TEXT
from consensus_flows.tasks.judging.judgements import arbiter_verdict
from consensus_flows.tasks.plain_text import visible
from consensus_flows.tasks.prompting.fence import hazards_of
from consensus_flows.tasks.prompting.prompt_sets import divide
from consensus_flows.tasks.readers import check_readable, json_object
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.reports.flare import read_input

JUDGEMENT = json.dumps(
    {
        "analysis": "a",
        "dissent": "",
        "synthesis": "18",
        "confidence": 90,
        "final": True,
        "ranking": ["A", "B"],
    }
)
FLARE = json.dumps(
    {
        "models": [{"id": "openai/gpt-4o", "max_tokens": 50, "temperature": 0.7}],
        "aggregator": [
            {"model": {"id": "x/y"}, "approach": "", "aggregator_prompt": [{"role": "user", "content": "z"}]}
        ],
        "initial_conversation": [{"role": "user", "content": "Who?"}],
        "iterations": 1,
    }
)
SEEDS = [
    JUDGEMENT,
    FLARE,
    '```json\n{"reasoning": "2+2", "answer": "\\\\frac{1}{2}"}\n``` so #### 1,234.5',
    "openai/gpt-x:3",
    "openrouter/deepseek/deepseek-r1:free:2",
    "The answer is **(B)**. Final answer: \\boxed{18}",
    '{"members": ["openai/one:2"], "quorum": 1, "sampling": {"temperature": 0.5}, "budget": {"max_calls": 3}}',
    '[{"prompt": "Why?", "answers": {"a": "b"}, "expected": "c"}]',
    "A > B = C > D",
    'id,prompt\n1,"a ""b"",\nc"\n2,d\n',
    '{"id": 1, "prompt": "a"}\n{"id": 2, "prompt": "b"}\n',
]
PIECES = [
    "{",
    "}",
    "[",
    "]",
    '"',
    ":",
    ",",
    "\\",
    "\n",
    "```",
    "null",
    "NaN",
    "-",
    "1e999",
    "9" * 400,
    "\ud800",
    "\x00",
    "\u202e",
    "/",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def nearly_right(draw: st.DrawFn) -> str:
    """A good text with some of it cut out, doubled, moved or replaced."""
    text = draw(st.sampled_from(SEEDS))
    chance = random.Random(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(0, 6))):
        start, end = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
        end = min(end, start + 20)
        match chance.randint(0, 3):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:start] + text[start:end] * 2 + text[end:]
            case 2:
                text = text[:start] + chance.choice(PIECES) + text[end:]
            case _:
                text = text[start:] + text[:start]
    return text


texts = st.one_of(nearly_right(), st.text(), json_values.map(lambda value: json.dumps(value, ensure_ascii=False)))
FORMS = [
    parse_extraction(form)
    for form in ("number", "choice:A-J", "json:answer", "label:yes,no", "text", "exact", "exact:answer")
]
CONFIGS = [
    ConsortiumConfig,
    VoteConfig,
    PumpConfig,
    PreferConfig,
    MixtureOfAgentsConfig,
    ConsensusLearningConfig,
    SwarmConfig,
]
READERS = (
    TEXT,
    "embedding",
    "synthesis:2",
    "ranking:2",
    "verdict:2",
    "preference:2",
    "same_meaning:2",
    "comparison",
    "extraction",
    "fusion",
    "split:2",
)


def _extract(text: str) -> None:
    for form in FORMS:
        for reading in extract_all([text, None, text], form):
            assert reading is None or isinstance(reading.text, str)


def _judge(text: str) -> None:
    for kind in ("synthesis", "ranking"):
        _allowed(lambda kind=kind: arbiter_verdict(kind, 2).read(text))


def _readers_all(text: str) -> None:
    for name in READERS:
        _allowed(lambda name=name: check_readable(name, text))


def _configs(text: str) -> None:
    for config in CONFIGS:
        _allowed(lambda config=config: config.model_validate_json(text.encode("utf-8", "replace")))
        _allowed(lambda config=config: config.model_validate({"members": [text], "arbiter": text, "extract": text}))


def _show(text: str) -> None:
    visible(text)
    hazards_of(text)
    divide(text, "Answer:", "Sources:")


def _batch_input(text: str) -> None:
    memory = fsspec.filesystem("memory")
    for ending in ("csv", "tsv", "jsonl", "json", "txt"):
        address = f"/fuzzing.{ending}"
        memory.pipe_file(address, text.encode("utf-8", "surrogatepass"))
        _allowed(lambda address=address: list(Source(f"memory:/{address}").rows()))
    _allowed(lambda: Source("memory://fuzzing.csv", prompt_template=text))


_PACKED = {"csv.gz": gzip.compress, "jsonl.bz2": bz2.compress, "json.xz": lzma.compress, "txt.gz": gzip.compress}


def _packed_input(text: str) -> None:
    """Read packed files and Parquet, whole ones and with some of their bytes changed."""
    memory = fsspec.filesystem("memory")
    data = text.encode("utf-8", "surrogatepass")
    chance = random.Random(data)
    files = {ending: pack(data) for ending, pack in _PACKED.items()}
    table = io.BytesIO()
    shown = data.decode("utf-8", "replace")
    pq.write_table(pa.table({"prompt": [shown, "x"], "parts": [shown.split(), None], "raw": [data, data[:9]]}), table)
    files["parquet"] = table.getvalue()
    for ending, whole in files.items():
        broken = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        for content in (whole, bytes(broken), whole[: chance.randint(0, len(whole))]):
            memory.pipe_file(f"/fuzzing.{ending}", content)
            _allowed(lambda ending=ending: list(Source(f"memory://fuzzing.{ending}", prompt_column="prompt").rows()))


TARGETS: dict[str, Callable[[str], Any]] = {
    "extractor": _extract,
    "judge reader": _judge,
    "all readers": _readers_all,
    "object": lambda text: _allowed(lambda: json_object(text, ("answer",))),
    "input.json": lambda text: _allowed(lambda: read_input(text, ("mine",))),
    "model name": lambda text: [_allowed(lambda: parse_member(text)), _allowed(lambda: members_of([text]))],
    "configurations": _configs,
    "cases": lambda text: _allowed(lambda: read_cases(text)),
    "batch input": _batch_input,
    "packed batch input": _packed_input,
    "record": lambda text: _allowed(lambda: Record.model_validate_json(text.encode("utf-8", "replace"))),
    "shown": _show,
}
"""What is fed: each ends in a value, in an error of ours, or where a configuration is checked in pydantic's."""


def _allowed(call: Callable[[], Any]) -> None:
    try:
        call()
    except (ConsensusError, ValidationError):
        pass
    except ValueError as error:
        # Validators raise plain ones with a sentence for the user; what Python itself raises has none.
        assert type(error) is ValueError, repr(error)  # noqa: PT017
        assert "invalid literal" not in str(error), repr(error)  # noqa: PT017
