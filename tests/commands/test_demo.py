"""The demo, with a loopback vendor in place of the small model."""

import re

from tests.kits.batch_kit import read
from tests.kits.command_kit import commands
from tests.vendors import LoopbackVendors, Reply, SeenRequest


def answer(seen: SeenRequest) -> Reply:
    country = re.search(r"capital of (\w+)", seen.prompt)
    assert country is not None
    return Reply(text={"Spain": "It is Madrid.", "France": "Paris"}.get(country[1], "I do not know."))


def test_the_demo_compares_the_vote_with_its_samples(results, vendors: LoopbackVendors, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("consensus_flows.deployments.commands.algorithms.demo.MODEL", "openai/one")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    vendors.script("one", then=answer)
    ran = commands(monkeypatch, capsys)("demo")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[:2] == ["Madrid", "Madrid"]
    assert re.search(r"right in 20% .* right in 2 of 10, wrong in 0, and asks for a person in 8", ran.out)
    (output,) = tmp_path.glob("consensus-demo-*/answers.jsonl")
    assert len(read(output)) == 10
    assert "I do not know." in output.with_name("review.html").read_text()
