"""Whatever a model or a file says is read or refused: no exception but our own. For minutes with -m chaos, else for seconds."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.chaos.figures import tell
from tests.kits.fuzzing import TARGETS, texts

FEWER = {"packed batch input": 10}
"""Each of these starts two processes."""


@pytest.mark.parametrize("examples", [40, pytest.param(3_000, marks=pytest.mark.chaos)])
@pytest.mark.parametrize("name", TARGETS)
def test_any_text(name, examples):
    fed = 0

    @settings(max_examples=examples // FEWER.get(name, 1), deadline=None, suppress_health_check=list(HealthCheck))
    @given(texts)
    def feed(text):
        nonlocal fed
        fed += 1
        TARGETS[name](text)

    feed()
    tell("fuzzing", target=name, texts=fed, exceptions_of_others=0)
