"""What a calibrated panel was calibrated on, against how it is used: where they differ, its probabilities may not hold."""

import hashlib
import json
import math
from collections.abc import Iterator

from consensus_flows.blocks.calibration import Calibration
from consensus_flows.blocks.panel import RunConfig
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.tasks.prompting.prompt_sets import prompt_set

FALLEN = 0.1
"""By so much less of the rows may be unanimous than on the labeled rows."""


def prompts_digest(config: RunConfig) -> str:
    """Return what tells the prompts of a panel apart from others: its system prompt and its prompt set."""
    prompts = [config.system, prompt_set(config.prompt_set).model_dump(mode="json", exclude={"description"})]
    return hashlib.sha256(json.dumps(prompts).encode("utf-8", "replace")).hexdigest()[:16]


def figures(config: RunConfig) -> Calibration | None:
    """Return what a panel was calibrated on, for a summary: without the hashes of the questions."""
    found = config.calibrated_on()
    return None if found is None else found.model_copy(update={"questions": ""})


def differences(config: RunConfig) -> Iterator[str]:
    """Say in what a run differs from the calibration of its panel, a sentence each."""
    calibration = config.calibrated_on()
    if calibration is None:
        return
    if isinstance(config, VoteConfig) and config.extract != calibration.extract:
        yield f"the panel was calibrated with extract {calibration.extract}, not {config.extract}: calibrate it again"
    if isinstance(config, VoteConfig) and calibration.probability is not None and not config.gives_probability():
        yield (
            "the panel was calibrated with other members, or another way to ask or count, so its answers have no probability: "
            "calibrate it again"
        )
    if calibration.prompts is not None and calibration.prompts != prompts_digest(config):
        yield "the panel was calibrated with another system prompt or prompt set: calibrate it again"


def has_fallen(unanimous: int, rows: int, calibration: Calibration) -> bool:
    """Tell whether a smaller share of rows is unanimous than in the calibration, by more than 10 points and more than chance.

    Args:
        unanimous: Rows on which all members that were asked gave the same answer.
        rows: Rows on which members voted.
        calibration: What was measured on the labeled rows.
    """
    expected = calibration.unanimous
    chance = 1.96 * math.sqrt(expected * (1 - expected) * (1 / max(rows, 1) + 1 / calibration.rows))
    return rows > 0 and round(expected - unanimous / rows, 9) > max(FALLEN, chance)
