"""What the benchmarks share: vendors in a process of their own, a Prefect server in a home of its own."""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from consensus_flows.deployments.server import ServerInfo


@contextmanager
def vendors(delay: float, *options: str) -> Iterator[str]:
    """Start the loopback vendors with a fixed delay a request, in seconds; gives their address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.vendors", "--port", "0", "--delay", str(delay), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


@contextmanager
def prefect_server(vendors_url: str | None) -> Iterator["ServerInfo"]:
    """Start a Prefect server with the settings of prefect.toml, and point OpenAI at the vendors, where there are any."""
    with tempfile.TemporaryDirectory(prefix="consensus-bench-") as home:
        os.environ.pop("PREFECT_API_URL", None)
        os.environ.pop("CONSENSUS_HISTORY_URL", None)
        os.environ |= {
            "PREFECT_HOME": home,
            "PREFECT_SERVER_API_PORT": str(free_port()),
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        }
        if vendors_url is not None:
            os.environ |= {"OPENAI_API_KEY": "bench", "OPENAI_BASE_URL": f"{vendors_url}/v1"}
        from consensus_flows.deployments.server import find_or_start_server, stop_server, use_server

        server = find_or_start_server(lambda _text: None)
        use_server(server)
        try:
            yield server
        finally:
            stop_server()


def free_port() -> int:
    """Return a port of this machine that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def requests_seen(vendors_url: str) -> int:
    """Return how many model calls the vendors have seen."""
    import httpx

    return int(httpx.get(f"{vendors_url}/_seen").json()["count"])


class Targets:
    """Prints each figure with its target. A ratio that no round has reached is missed; a figure is the machine's, too."""

    def __init__(self) -> None:
        self.met = True

    def ratio(self, what: str, rounds: Sequence[float], least: float) -> None:
        """Print a ratio of the same run, which is to be `least` or more; where even the best round is below, it is missed."""
        missed = max(rounds) < least
        self.met = self.met and not missed
        word = "missed" if missed else "met" if statistics.median(rounds) >= least else "met by the best round only"
        print(f"{what}: {_rounds(rounds)}, target at least {least:g}: {word}")

    def figure(self, what: str, rounds: Sequence[float], target: float, *, least: bool = False) -> None:
        """Print a figure of this machine, which should be no more than its target; or no less, with `least`."""
        if rounds:
            middle = statistics.median(rounds)
            word = "met" if (middle >= target if least else middle <= target) else "not met here"
            print(f"{what}: {_rounds(rounds)}, target at {'least' if least else 'most'} {target:g}: {word}")


def _rounds(rounds: Sequence[float]) -> str:
    shown = f"{statistics.median(rounds):.2f}"
    return shown if len(rounds) == 1 else f"{shown} ({min(rounds):.2f} to {max(rounds):.2f})"
