"""What the tests of judges share: judges of pairs that go by a rule."""

import re
from collections.abc import Callable
from typing import Any

from consensus_flows.tasks.labelled_pairs import shipped_pairs
from tests.vendors import Reply, SeenRequest, json_reply


def shown(seen: SeenRequest) -> list[tuple[str, str]]:
    """The two answers that a judge saw, in the order shown."""
    return re.findall(r"^\[answer \w+ (\w+)\]\n(.*?)\n\[end answer \w+ \1\]$", seen.prompt, re.DOTALL | re.MULTILINE)


def by(rule: Callable[[str], Any]) -> Callable[[SeenRequest], Reply]:
    """A judge that prefers the answer of which `rule` is greater."""

    def reply(seen: SeenRequest) -> Reply:
        (_, first), (_, second) = shown(seen)
        return json_reply({"analysis": "", "better": "first" if rule(first) >= rule(second) else "second"})

    return reply


BETTER = {getattr(pair, pair.better) for pair in shipped_pairs()}
"""The better answers of the pairs that come along."""
