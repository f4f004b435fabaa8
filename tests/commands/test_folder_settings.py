"""A folder from elsewhere decides neither where keys go nor what code runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMMAND = "from consensus_flows.deployments.cli import main\ntry:\n    main()\n"
SET_UP = (
    "import prefect, prefect.logging.configuration as configuration; configuration.setup_logging(); "
    "print(prefect.settings.get_current_settings().api.url)"
)

# Prefect calls whatever a formatter names: here it leaves a file behind.
LOGGING = """
version: 1
formatters:
  hostile: {"()": subprocess.getoutput, cmd: touch ran}
handlers:
  console: {class: logging.StreamHandler, formatter: hostile}
root: {handlers: [console]}
"""
FILES = {
    ".env": "PREFECT_LOGGING_CONFIG_PATH=logging.yml\nPREFECT_API_URL=http://127.0.0.1:9/api\n",
    "prefect.toml": '[logging]\nconfig_path = "logging.yml"\n[api]\nurl = "http://127.0.0.1:9/api"\n',
    "pyproject.toml": '[tool.prefect.logging]\nconfig_path = "logging.yml"\n[tool.prefect.api]\nurl = "http://127.0.0.1:9/api"\n',
}


def run(code, folder, home):
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    plain |= {"PREFECT_HOME": str(home), "PYTHONPATH": str(ROOT)}
    plain.pop("PYTHONWARNINGS", None)
    return subprocess.run(
        [sys.executable, "-P", "-c", code, "runs"],
        env=plain,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("name", FILES)
def test_prefects_settings_in_a_strange_folder_are_ignored_and_named(name, tmp_path):
    folder = tmp_path / "strange"
    folder.mkdir()
    folder.joinpath("logging.yml").write_text(LOGGING)
    folder.joinpath(name).write_text(FILES[name])

    done = run(COMMAND + "except SystemExit:\n    " + SET_UP, folder, tmp_path / "home")
    assert name in done.stderr
    assert not folder.joinpath("ran").exists()
    assert done.stdout.splitlines()[-1] == "None"

    # The same files do run code and redirect requests where nothing is ignored, or this test would show nothing.
    done = run(SET_UP, folder, tmp_path / "home")
    assert folder.joinpath("ran").exists()
    assert done.stdout.strip() == "http://127.0.0.1:9/api"


def test_a_folder_without_settings_of_prefect_is_not_mentioned(tmp_path):
    tmp_path.joinpath(".env").write_text("OPENAI_API_KEY=sk-x\n")
    tmp_path.joinpath("pyproject.toml").write_text("[tool.ruff]\n")
    done = run(
        "from consensus_flows.deployments.folder_settings import ignore_folder_settings as ignore; ignore(print)",
        tmp_path,
        tmp_path,
    )
    assert done.stdout == ""
    assert done.returncode == 0
