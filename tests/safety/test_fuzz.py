"""Whatever a model or a file says is read or refused: no exception but our own. `make chaos` does it for minutes."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.kits.fuzzing import TARGETS, texts


@pytest.mark.parametrize("name", TARGETS)
def test_any_text(name):
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(texts)
    def feed(text):
        TARGETS[name](text)

    feed()
