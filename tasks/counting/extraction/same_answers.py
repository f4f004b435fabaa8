"""Counts readings that mean the same as one answer, in a vote in which a model reads the texts."""

from collections.abc import Sequence

from blocks.member import parse_member
from blocks.vote import VoteConfig
from tasks.calls.call import Call
from tasks.counting.extraction.extract import Reading
from tasks.counting.extraction.same_meaning import Value, comparable, distinct, same_by_model
from tasks.record import Iteration, Record


class SameAnswers:
    """What is known of which readings mean the same, while wave after wave of members is asked."""

    def __init__(self, question: str, config: VoteConfig, record: Record, iteration: Iteration, call: Call) -> None:
        self._question = question
        self._config = config
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
        if self._config.extractor is not None and comparable(different) and values != self._compared:
            heads, calls = await same_by_model(
                self._question,
                different,
                parse_member(self._config.extractor)[0],
                self._call,
                sampling=self._config.judge_settings,
                timeout=self._config.timeout,
                seed=str(self._config.seed),
            )
            self._iteration.judgements += calls
            self._compared, self._heads = values, heads or {}
            if heads is None:
                self._record.degraded = True
                self._record.warnings.append(
                    f"{self._config.extractor} could not tell which readings mean the same: they count as written"
                )
        return [reading and self._heads.get(reading.value, reading) for reading in readings]
