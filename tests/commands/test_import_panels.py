"""`consensus import` of panels of llm-consortium."""

import json

import pytest

from tests.kits.command_kit import Command, commands
from tests.vendors import LoopbackVendors

# As `llm consortium info NAME --json` prints it.
PANEL = {
    "models": {"gpt-x": 2, "claude-x": 1, "openrouter/author/x:free": 1, "mine": 1},
    "system_prompt": "Be brief.",
    "confidence_threshold": 0.9,
    "max_iterations": 5,
    "minimum_iterations": 2,
    "arbiter": "gemini-x",
    "judging_method": "rank",
    "strategy": "voting",
    "strategy_params": {},
    "manual_context": False,
    "name": "night_panel",
}


@pytest.fixture
def consensus(results: str, vendors: LoopbackVendors, monkeypatch, capsys) -> Command:
    return commands(monkeypatch, capsys)


def test_a_panel_of_llm_consortium_is_saved_as_a_consortium(consensus, tmp_path):
    file = tmp_path / "panel.json"
    file.write_text(json.dumps([PANEL]))
    unknown = consensus("import", str(file))
    assert unknown.code == 2 and "--map mine=provider/model" in unknown.err

    ran = consensus("import", str(file), "--map", "mine=openai/mine")
    assert ran.code == 0 and "not imported: strategy" in ran.err
    try:
        assert json.loads(consensus("show", "night-panel").out) == {
            "members": ["openai/gpt-x:2", "anthropic/claude-x:1", "openrouter/author/x:free:1", "openai/mine:1"],
            "arbiter": "google/gemini-x",
            "system": "Be brief.",
            "confidence_threshold": 0.9,
            "max_iterations": 5,
            "min_iterations": 2,
            "judging_method": "rank",
        }
        plain = json.dumps({**PANEL, "strategy": "default", "models": {"o3": 1}})
        assert "not imported" not in consensus("import", "-", "night-panel", stdin=plain).err
        slip = consensus("Why?", "-m", "night-panel", "--arbiter", "openai/a")
        assert slip.code == 2 and "--name night-panel" in slip.err
    finally:
        consensus("remove", "night-panel")


@pytest.mark.parametrize(
    "file",
    [
        [{"name": "night_panel", "config": json.dumps({"models": {"gpt-x": 2, "o3": 1}, "arbiter": "gemini-x"})}],
        {"name": "night_panel", "config_json": json.dumps({"models": {"gpt-x": 2, "o3": 1}, "arbiter": "gemini-x"})},
        {"night_panel": {"models": {"gpt-x": 2, "o3": 1}, "arbiter": "gemini-x"}},
        {"name": "night_panel", "models": ["gpt-x", "gpt-x:1", "o3:1"], "arbiter": "gemini-x"},
    ],
)
def test_rows_of_its_database_panels_by_name_and_listed_models_are_read(consensus, file):
    ran = consensus("import", "-", stdin=json.dumps(file))
    assert ran.code == 0, ran.err
    try:
        shown = json.loads(consensus("show", "night-panel").out)
        assert (shown["members"], shown["arbiter"]) == (["openai/gpt-x:2", "openai/o3:1"], "google/gemini-x")
    finally:
        consensus("remove", "night-panel")


def test_count_is_that_of_the_models_without_one(consensus):
    given = ["-m", "openai/a", "-m", "openai/b:2", "-n", "3"]
    assert consensus("save", "many", "--flow", "vote", *given).code == 0
    assert json.loads(consensus("show", "many").out)["members"] == ["openai/a:3", "openai/b:2"]
    consensus("remove", "many")


def test_a_file_without_panels_is_named(consensus, tmp_path):
    file = tmp_path / "panel.json"
    file.write_text("{}")
    assert str(file) in consensus("import", str(file)).err
    assert "standard input" in consensus("import", "-", stdin="{}").err
    assert "not valid JSON" in consensus("import", "-", stdin="Name: night").err
    assert consensus("import", "-", stdin='{"config": "no JSON"}').code == 2
