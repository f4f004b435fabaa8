"""Parts of a batch that several runs work on: each leaves a file of rows and sums, and these are merged.

A part's file is JSON lines: its rows in the order of the input, then the sums over its calls. It is written whole or not
at all.
"""

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from consensus_flows.tasks.batches.addresses import place_of
from consensus_flows.tasks.batches.journal import Finished
from consensus_flows.tasks.batches.output import RESULT_COLUMNS, output_row, own_names, write_rows
from consensus_flows.tasks.batches.row import Inventory
from consensus_flows.tasks.batches.totals import Totals

PART_COLUMNS = ("row", "result", "own", "calls")


def write_output(address: str, rows: Iterable[Finished], inventory: Inventory, id_column: str | None) -> None:
    """Write the rows of a batch as its output.

    Raises:
        OSError: If it cannot be written.
    """
    names = own_names(inventory.columns, id_column)
    written = (output_row(one.result, one.own, names) for one in rows)
    write_rows(address, written, [*RESULT_COLUMNS, *names.values()])


def write_part(address: str, rows: Iterable[Finished], totals: Totals) -> None:
    """Write the rows of a part of a batch.

    Raises:
        OSError: If it cannot be written.
    """

    def lines() -> Iterator[dict[str, Any]]:
        for one in rows:
            yield {"row": one.number, "result": one.result, "own": one.own}
        yield {"calls": totals.dump()}

    write_rows(address, lines(), PART_COLUMNS)


def merged(addresses: Sequence[str], totals: Totals) -> Iterator[Finished]:
    """Read the rows of all parts in the order of the input, and add their calls to `totals`."""
    return heapq.merge(*(_rows(address, totals) for address in addresses), key=lambda one: one.number)


def _rows(address: str, totals: Totals) -> Iterator[Finished]:
    place = place_of(address, "output")
    with place.fs.open(place.path, "rb") as file:
        for line in file:
            entry = json.loads(line)
            if "calls" in entry:
                totals.add(entry["calls"])
            else:
                yield Finished(entry["row"], entry["result"], entry["own"])
