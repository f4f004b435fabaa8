"""JSON: one value a line, or one array of all rows, which is read as it comes and never held whole."""

import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, BinaryIO, NoReturn

from consensus_flows.tasks.batches.formats.json_numbers import Numbers, plain_number
from consensus_flows.tasks.batches.formats.text import TOO_LONG, lines_of
from consensus_flows.tasks.batches.formats.unpacking import Growing
from consensus_flows.tasks.batches.limits import MAX_DEPTH, MAX_ROW_CHARACTERS, fault_in_text
from consensus_flows.tasks.batches.row import Broken, Item
from consensus_flows.tasks.errors import ConfigurationError


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def read_json_lines(file: BinaryIO) -> Iterator[Item | Broken]:
    """Yield the values of a file that has one a line; blank lines are skipped."""
    for number, line in enumerate(lines_of(file), 1):
        if line is None:
            yield Broken(number, TOO_LONG)
            continue
        if not line.strip():
            continue
        if fault := fault_in_text(line):
            yield Broken(number, fault)
            continue
        try:
            value = json.loads(line, parse_constant=_no_constant)
        except RecursionError:
            yield Broken(number, f"it is nested deeper than {MAX_DEPTH} levels")
        except ValueError as error:
            yield Broken(number, f"broken JSON: {error}")
        else:
            yield Item(number, value)


def read_json_array(file: BinaryIO) -> Iterator[Item | Broken]:
    """Yield the items of one array.

    Raises:
        ConfigurationError: If it is no array, or broken: what follows the break cannot be told from it.
    """
    import ijson  # type: ignore[import-untyped]

    buffered = io.BufferedReader(file, 1 << 16)  # type: ignore[type-var]
    if buffered.peek(3)[:3] == b"\xef\xbb\xbf":
        buffered.read(3)
    if not buffered.peek(1):
        return
    number = 0
    growing = Growing(Numbers(buffered))
    events = growing.followed(ijson.basic_parse(growing))
    try:
        event = next(events, None)
        if event is None:
            return
        if event[0] != "start_array":
            raise ConfigurationError(
                "input: it must hold an array of objects or of texts; one object a line is read from a file .jsonl"
            )
        for event, value in events:
            if event == "end_array":
                break
            item = _build(events, event, value, number + 1)
            number += 1
            yield item
        next(events, None)  # whatever follows the array is an error
    except (ijson.JSONError, ValueError, ArithmeticError, SystemError) as error:
        if isinstance(error, ConfigurationError):
            raise
        # The last two, and a ValueError that is no UnicodeDecodeError, are of numbers that the parser cannot take.
        said = error.args[0] if error.args else error
        text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        what = text.partition("\n")[0].strip()[:200]
        raise ConfigurationError(
            f"input: broken JSON at item {number + 1}, so that what follows cannot be read: {what}"
        ) from None


def _build(events: Iterator[tuple[str, Any]], event: str, value: Any, number: int) -> Item | Broken:
    """Build one item of the array. What is too deep or too large is read over, not built."""
    top: list[Any] = []
    stack: list[Any] = [top]
    keys: list[str] = []
    depth = size = 0
    fault = None
    while True:
        opens, closes = event in {"start_map", "start_array"}, event in {"end_map", "end_array"}
        depth += opens - closes
        size += 1 + (len(value) if isinstance(value, str) else 0)
        if fault is None and (depth > MAX_DEPTH or size > MAX_ROW_CHARACTERS):
            fault = (
                f"it is nested deeper than {MAX_DEPTH} levels"
                if depth > MAX_DEPTH
                else f"the row is larger than {MAX_ROW_CHARACTERS:,} characters"
            )
            stack.clear()
        if fault is not None:
            pass
        elif event == "map_key":
            keys.append(value)
        elif closes:
            stack.pop()
        else:
            made: Any = {} if event == "start_map" else [] if opens else _plain(value)
            holder = stack[-1]
            if isinstance(holder, dict):
                holder[keys.pop()] = made
            else:
                holder.append(made)
            if opens:
                stack.append(made)
        if depth == 0 and event != "map_key":
            break
        event, value = next(events)
    return Broken(number, fault) if fault is not None else Item(number, top[0])


def _plain(value: Any) -> Any:
    return plain_number(value) if isinstance(value, Decimal) else value
