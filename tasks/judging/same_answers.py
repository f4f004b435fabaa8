"""Counts readings that mean the same as one answer, in a vote in which a model reads the texts."""

from collections.abc import Sequence

from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.counting.extraction.extract import Reading, Value
from consensus_flows.tasks.judging.bench import Bench
from consensus_flows.tasks.judging.same_meaning import comparable, distinct, same_by_model
from consensus_flows.tasks.record import Iteration, Record


class SameAnswers:
    """What is known of which readings mean the same, while wave after wave of members is asked.

    The bench is that of the extractor, if there is one.
    """

    def __init__(self, bench: Bench | None, record: Record, iteration: Iteration, call: Call) -> None:
        self._bench = bench
        self._record = record
        self._iteration = iteration
        self._call = call
        self._compared: list[Value] = []
        self._heads: dict[Value, Reading] = {}

    async def merged(self, readings: Sequence[Reading | None]) -> list[Reading | None]:
        """Return each reading as the first of those that mean the same.

        The extractor is asked once for each set of different readings; without one, nothing is merged. Where it cannot
        be read, every reading counts as it is written, and the record says so.
        """
        different = distinct(readings)
        values = [reading.value for reading in different]
        if self._bench is not None and comparable(different) and values != self._compared:
            heads, calls = await same_by_model(different, self._bench, self._call)
            self._iteration.judgements += calls
            self._compared, self._heads = values, heads or {}
            if heads is None:
                self._record.degraded = True
                model = str(self._bench.model)
                message = f"{model} could not tell which readings mean the same: they count as written"
                self._record.warn("not_merged", message, member=model)
        return [reading and self._heads.get(reading.value, reading) for reading in readings]
