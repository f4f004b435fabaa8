"""What each part of a batch may spend."""

from consensus_flows.blocks.budget import Budget
from consensus_flows.tasks.errors import ConfigurationError


def share(budget: Budget, shards: int) -> list[Budget]:
    """Return each shard's part of the budget; seconds are not shared, because shards go on at the same time.

    Raises:
        ConfigurationError: If it does not suffice for one of each.
    """
    for name in ("max_calls", "max_tokens"):
        limit = getattr(budget, name)
        if limit is not None and limit < shards:
            raise ConfigurationError(
                f"budget.{name}: {limit} cannot be shared among {shards} shards: give at least {shards}"
            )

    def part(limit: int | None, number: int) -> int | None:
        return None if limit is None else limit // shards + (number < limit % shards)

    return [
        Budget(
            max_calls=part(budget.max_calls, number),
            max_tokens=part(budget.max_tokens, number),
            max_cost_usd=None if budget.max_cost_usd is None else budget.max_cost_usd / shards,
            max_seconds=budget.max_seconds,
        )
        for number in range(shards)
    ]
