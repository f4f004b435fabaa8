"""Labeled pairs of answers, by which judges are tried out: those that come along, and a person's own."""

from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from consensus_flows.blocks.check_judges import LabelledPair
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.errors import ConfigurationError

_SHIPPED = Path(__file__).parent / "prompts" / "check_judges.json"
_COLUMNS = frozenset(LabelledPair.model_fields)


@cache
def shipped_pairs() -> tuple[LabelledPair, ...]:
    """Return the pairs that come along, `tasks/prompts/check_judges.json`: natural and adversarial ones."""
    return tuple(TypeAdapter(list[LabelledPair]).validate_json(_SHIPPED.read_bytes()))


def read_pairs(address: str) -> list[LabelledPair]:
    """Read a file of labeled pairs, in any format that a batch reads; other columns are left out.

    Args:
        address: A path or an address, with the columns question, a, b, better and, if wanted, kind.

    Raises:
        ConfigurationError: If it cannot be read; it names the row.
    """
    pairs = []
    for number, row in enumerate(Source(address).records(), 1):
        try:
            own = {name: value for name, value in row.items() if name in _COLUMNS and value not in {None, ""}}
            pairs.append(LabelledPair.model_validate(own))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            column = ".".join(map(str, first["loc"]))
            raise ConfigurationError(
                f"row {number}: {column}: {first['msg']}; write the columns question, a, b and better (a or b)",
                field="pairs",
            ) from None
    if not pairs:
        raise ConfigurationError(f"{address} has no rows", field="pairs")
    return pairs
