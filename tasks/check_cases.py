"""The prompts of a capability check, read from a file that a person edits, and what a check comes to."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from consensus_flows.blocks.check_models import CheckCase, CheckRole
from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.tasks.counting.extraction.extract import extract, extract_label
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.json_text import parse
from consensus_flows.tasks.record import Response, Usage

_FOLDER = Path(__file__).parent / "prompts"


@cache
def shipped_cases(role: CheckRole) -> tuple[CheckCase, ...]:
    """Return the prompts that come along: `tasks/prompts/check_proposer.json` and `check_aggregator.json`."""
    return tuple(read_cases((_FOLDER / f"check_{role}.json").read_text(encoding="utf-8")))


def read_cases(text: str) -> list[CheckCase]:
    """Read prompts: one a line, a JSON list of texts or of objects, or a JSON object of answers by prompt.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if not text.lstrip().startswith(("[", "{")):
        return [CheckCase(prompt=line.strip()) for line in text.splitlines() if line.strip()]
    try:
        value = parse(text)
    except ValueError as error:
        raise ConfigurationError(f"not valid JSON: {error}", field="prompts") from None
    if isinstance(value, dict):
        value = [{"prompt": prompt, "answers": answers} for prompt, answers in value.items()]
    try:
        return [_case(item) for item in value]
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"{where}: {first['msg']}; write a list of texts, or of objects with prompt, answers and expected",
            field="prompts",
        ) from None


def _case(item: Any) -> CheckCase:
    return CheckCase.model_validate({"prompt": item} if isinstance(item, str) else item)


class CheckReport(BaseModel):
    """What the candidates made of each prompt."""

    role: CheckRole
    flow_run_id: str | None = None
    cases: list[CheckCase] = Field(default_factory=list)
    responses: list[list[Response]] = Field(default_factory=list)
    """For each case the responses of all candidates, in order."""
    usage: Usage = Usage()
    cost_usd: float | None = None
    duration_s: float = 0.0

    def answers(self) -> dict[str, dict[str, Any]]:
        """Return `{prompt: {model: answer}}`; in place of an answer that is missing stands `{"error": ...}`."""
        return {
            case.prompt: {
                label: response.text if response.error is None else {"error": response.error.model_dump()}
                for label, response in zip(self.labels(), responses, strict=True)
            }
            for case, responses in zip(self.cases, self.responses, strict=True)
        }

    def labels(self) -> list[str]:
        """Name the candidates: `provider/model`, or the instance where a model is tried out several times."""
        first = self.responses[0] if self.responses else []
        models = [f"{response.provider}/{response.model}" for response in first]
        return [
            response.member if models.count(model) > 1 else model for response, model in zip(first, models, strict=True)
        ]

    def add_up(self) -> None:
        """Fill in the sums. The cost is None as soon as that of one call is not known."""
        calls = [response for responses in self.responses for response in responses]
        self.usage = sum((call.spent for call in calls), Usage())
        known = [call.cost_usd for call in calls if call.cost_usd is not None]
        self.cost_usd = round(sum(known), 10) if len(known) == len(calls) else None


def as_expected(text: str | None, case: CheckCase) -> bool | None:
    """Tell whether `text` gives the answer that `case` expects; None where it expects none.

    Where the case says how the answer is read, the one that is read counts. Otherwise the expected words must stand
    somewhere in the text, without regard to case: a hint for the eye, not a judgement.
    """
    if case.expected is None or text is None:
        return None
    if case.extract is None:
        return re.search(rf"(?<!\w){re.escape(case.expected)}(?!\w)", text, re.IGNORECASE) is not None
    extraction = parse_extraction(case.extract)
    found, wanted = extract(text, extraction), extract_label(case.expected, extraction)
    return found is not None and wanted is not None and found.value == wanted.value
