"""Fuzzing of everything that reads what a model or a person wrote, for minutes."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.chaos.figures import tell
from tests.kits.fuzzing import TARGETS, texts

pytestmark = pytest.mark.chaos
EXAMPLES = 3_000
FEWER = {"packed batch input": 400}
"""Each of these starts two processes."""


@pytest.mark.parametrize("name", TARGETS)
def test_any_text(name):
    fed = 0

    @settings(max_examples=FEWER.get(name, EXAMPLES), deadline=None, suppress_health_check=list(HealthCheck))
    @given(texts)
    def feed(text):
        nonlocal fed
        fed += 1
        TARGETS[name](text)

    feed()
    tell("fuzzing", target=name, texts=fed, exceptions_of_others=0)
