"""Prints the figures when all tests have run."""

from typing import Any

from tests.chaos.figures import LINES


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was measured."""
    if LINES:
        terminalreporter.section("figures")
        for line in LINES:
            terminalreporter.write_line(line)
