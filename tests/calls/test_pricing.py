"""The price of an answer is looked up while others are on their way, and never costs the answer."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consensus_flows.tasks.calls import attempt
from tests.kits.asking import answer, asking, question
from tests.vendors import LoopbackVendors

IMPORTING = """
import asyncio
from consensus_flows.blocks import OpenAICredentials
from consensus_flows.tasks.calls.pricing import price
from consensus_flows.tasks.calls.providers import _endpoint
from consensus_flows.tasks.record import Usage

end = _endpoint("openai", OpenAICredentials(api_key="k"))

async def later(seconds):
    await asyncio.sleep(seconds)
    return await price(end, "gpt-4o", Usage(input_tokens=1000, output_tokens=1000))

async def main():
    return await asyncio.gather(*(later(number / 200) for number in range(100)))

print(set(asyncio.run(main())))
"""


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(tmp_path_factory.mktemp("priced")) as vendors:
        yield vendors


def test_answers_that_come_in_while_the_table_is_imported_are_priced() -> None:
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", IMPORTING], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{0.0125}"


async def test_an_answer_is_not_lost_over_its_price(server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> float | None:
        raise AttributeError("the table is broken")

    monkeypatch.setattr(attempt, "price", broken)
    request = question("anthropic")
    assert (await answer(request)).cost_usd is None
    assert server.count(request.model) == 1
