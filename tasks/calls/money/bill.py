"""What was paid, as far as it is known: a request whose response was lost may have been billed, and nobody says how much."""


def known_cost(cost_usd: float | None, possibly_billed: int) -> float | None:
    """Return a sum of US dollars, but None where it is 0 only because what may have been billed is not known.

    Args:
        cost_usd: What is known to have been paid; None where that is not known.
        possibly_billed: Requests that may have been billed beside it.
    """
    return None if possibly_billed and not cost_usd else cost_usd


def bill(cost_usd: float | None, possibly_billed: int = 0) -> str:
    """Say for a person what was paid: `$0.0120`, or `at least $0.0120; 2 requests may have been billed`."""
    paid = "cost unknown" if cost_usd is None else f"${cost_usd:.4f}"
    if not possibly_billed:
        return paid
    least = "" if cost_usd is None else "at least "
    requests = "1 request" if possibly_billed == 1 else f"{possibly_billed} requests"
    return f"{least}{paid}; {requests} may have been billed"
