"""What every vendor's batch API can do: the same answers later, at half the price. Each vendor's own is in its module."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.request import Request

MB = 1_000_000
MOST_BYTES = 64 * MB
"""Of the lines of one batch. Vendors take more, but all of it is in memory at once."""


class BatchLine(NamedTuple):
    """A request as a line of a batch.

    Attributes:
        id: Its custom id: 64 hexadecimal digits.
        request: The request.
        body: What `Vendor.build` has made of it.
    """

    id: str
    request: Request
    body: Mapping[str, Any]


class LineResult(NamedTuple):
    """What came of a line.

    Attributes:
        id: Its custom id.
        response: The SDK's response object, if there was an answer.
        fault: What went wrong otherwise; None with no response means that the line was not executed, and is not billed.
    """

    id: str
    response: Any = None
    fault: Fault | None = None


@dataclass(frozen=True)
class BatchJob:
    """How a batch is at the vendor.

    Attributes:
        id: The vendor's id.
        ended: Whether nothing more will come, and what came can be read.
        late: Whether it has ended, but its results cannot be read yet.
        cut: Whether it ended before all lines were executed: those without a result were not.
        status: The vendor's own word.
        done: Lines that have an answer or an error.
        fault: Why the batch as a whole was refused.
        full: Whether it was refused because the vendor's queue is full.
        refused: What is wrong with single lines of a batch that was refused, by their number from 0.
        tokens: What the vendor says that all lines have used, input and output together; None where it does not say.
        source: The SDK's object.
    """

    id: str
    ended: bool
    status: str
    late: bool = False
    cut: bool = False
    done: int = 0
    fault: Fault | None = None
    full: bool = False
    refused: Mapping[int, Fault] = field(default_factory=dict)
    tokens: int | None = None
    source: Any = field(default=None, repr=False)


class BatchAPI(ABC):
    """One vendor's batch API."""

    most_lines: ClassVar[int]
    most_bytes: ClassVar[int] = MOST_BYTES
    marked: ClassVar[bool] = True
    """Whether a batch can bear our mark; without one it is recognised by the ids of its results."""

    @abstractmethod
    async def submit(self, client: Any, model: str, lines: Sequence[BatchLine], mark: str) -> BatchJob:
        """Submit a batch; `mark` is what it is found by if nobody hears that it was accepted."""

    @abstractmethod
    def find(self, client: Any, mark: str, since: datetime, lines: int) -> AsyncIterator[BatchJob]:
        """Yield the batches that may be the one with this mark: made since then, with so many lines."""

    @abstractmethod
    async def look(self, client: Any, id: str) -> BatchJob:
        """Ask how a batch is."""

    @abstractmethod
    async def cancel(self, client: Any, id: str) -> None:
        """Cancel a batch; what was answered by then is kept, and billed."""

    @abstractmethod
    def results(self, client: Any, job: BatchJob) -> AsyncIterator[LineResult]:
        """Read what came of the lines of a batch that has ended, in any order.

        Raises:
            ValueError: If the file ends in the middle of a line.
        """
