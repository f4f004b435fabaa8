"""Run the loopback vendors as a process of their own.

``python -m tests.vendors --port 0 --delay 0.2`` prints the URL on one line and serves until SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from types import FrameType

from .server import MODELS, LoopbackVendors


def main() -> None:
    """Parse arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.vendors", description="Serve three vendors' APIs locally.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds each generation takes")
    parser.add_argument("--job-delay", type=float, default=0.0, help="seconds each batch job takes")
    parser.add_argument("--model", action="append", help="a model to list; may be repeated")
    given = parser.parse_args()
    done = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        done.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    with LoopbackVendors(port=given.port, delay=given.delay, models=given.model or MODELS) as vendors:
        vendors.jobs.delay = given.job_delay
        sys.stdout.write(f"{vendors.url}\n")
        sys.stdout.flush()
        done.wait()


if __name__ == "__main__":
    main()
