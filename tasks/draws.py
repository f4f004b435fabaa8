"""Repeated rounds of the same question: each draws new samples, which are stored apart from those of other rounds."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from consensus_flows.blocks.member import Member
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.record import Response


def drawing(call: Call, members: Sequence[Member], number: int) -> Call:
    """Return `call` for round `number`: every request gets a sample index, and a sampling seed, of that round's own.

    Args:
        call: Makes the calls.
        members: All members; the instances of one model have that many consecutive sample indices in each round.
        number: The round, from 1; the first one's requests are left as they are.
    """
    instances = Counter(str(member.name) for member in members)

    async def drawn(request: Request, **options: Any) -> Response:
        shift = (number - 1) * instances[request.name]
        sampling = request.sampling
        if shift and sampling.seed is not None:
            sampling = sampling.model_copy(update={"seed": sampling.seed + shift})
        return await call(
            request.model_copy(update={"sample": request.sample + shift, "sampling": sampling}), **options
        )

    return drawn
