"""Imports what a run will need in a thread, while the run waits for the Prefect server and for the first answers."""

from collections.abc import Iterable
from contextlib import suppress
from threading import Thread

from consensus_flows.blocks.credentials import Wire
from consensus_flows.tasks.calls.adapters import adapter_of
from consensus_flows.tasks.calls.providers import BUILT_IN, LOCAL


def warm_up(providers: Iterable[str]) -> None:
    """Start importing the SDKs and the price table that calls of the built-in `providers` will use.

    A provider of the user's own is left out: which SDK it needs is known only when its block has been read.
    """
    names = list(dict.fromkeys(providers))
    wires: list[Wire] = [
        "openai" if name == LOCAL else BUILT_IN[name].block.wire for name in names if name in {*BUILT_IN, LOCAL}
    ]
    paid = any(name != LOCAL for name in names)

    def load() -> None:
        # What fails here fails again where it is used, and is reported there.
        with suppress(Exception):
            for wire in dict.fromkeys(wires):
                adapter_of(wire)
            if paid:
                from genai_prices import data  # noqa: F401

    Thread(target=load, name="warm-up", daemon=True).start()
