"""What a round comes to without a model: by counting, by nearness, or by the members settling it among themselves."""

from collections.abc import Sequence

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig
from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.tasks.counting.agreement import LEXICAL, Likeness, clusters, nearest
from consensus_flows.tasks.counting.decentralized import Outcome, settle
from consensus_flows.tasks.counting.extraction.extract import Value, extract_all
from consensus_flows.tasks.counting.vote import count_votes
from consensus_flows.tasks.plain_text import labels
from consensus_flows.tasks.record import Adopted, Iteration, Response, Settlement, Synthesis


def values_of(responses: Sequence[Response], extraction: str) -> list[str | None]:
    """Read the answer out of each response; None where it cannot be read.

    Numbers are compared exactly, other answers without regard to case; each is written as the first member wrote it.
    """
    form = parse_extraction(extraction)
    readings = extract_all([response.text for response in responses], form)
    shown: dict[Value, str] = {}
    for reading in readings:
        if reading is not None:
            shown.setdefault(reading.value, reading.text)
    return [None if reading is None else shown[reading.value] for reading in readings]


def votes_of(responses: Sequence[Response], values: Sequence[str | None]) -> dict[str, list[str]]:
    """Return who gave each value; who gave none is an abstention."""
    votes: dict[str, list[str]] = {}
    for response, value in zip(responses, values, strict=True):
        if value is not None:
            votes.setdefault(value, []).append(response.member)
    return votes


def majority(
    responses: Sequence[Response], config: ConsensusLearningConfig, likeness: Likeness = LEXICAL
) -> Synthesis | None:
    """Count the extracted answers; of a tie the value wins whose first voter is listed first.

    Returns:
        The answer word for word of the member nearest to all that gave the winning value, or None where no answer
        could be read.
    """
    values = values_of(responses, config.extract or "text")
    winner = count_votes(values).winner
    if winner is None:
        return None
    votes = votes_of(responses, values)
    return _word_for_word(responses, votes, str(winner.value), "majority", likeness, extracted=True)


def tied(synthesis: Synthesis) -> list[str]:
    """Return the other values that have as many votes as the one that won."""
    winning = len(synthesis.votes.get(synthesis.value or "", []))
    return [value for value, members in synthesis.votes.items() if value != synthesis.value and len(members) == winning]


def decentralized(
    responses: Sequence[Response], config: ConsensusLearningConfig, seed: str, likeness: Likeness = LEXICAL
) -> tuple[Synthesis | None, Settlement]:
    """Let the members settle the answer among themselves; no model is asked.

    With an extraction the extracted answers are compared, without one whole texts, by `likeness`, and the values are
    then the letters of groups of like texts.

    Returns:
        The answer word for word of the member nearest to all that gave the winning value, or None where no answer
        could be read; and how it went.
    """
    values: list[str | None]
    if config.extract is None:
        numbers = clusters([response.text or "" for response in responses], config.alike, likeness)
        names = labels(len(responses))
        values = [names[number] for number in numbers]
    else:
        values = values_of(responses, config.extract)
    outcome = settle(values, config.decentralized, seed)
    settlement = _settlement(responses, values, outcome, seed)
    if outcome.winner is None:
        return None, settlement
    votes = votes_of(responses, values)
    extracted = config.extract is not None
    made = _word_for_word(responses, votes, outcome.winner, "decentralized", likeness, extracted=extracted)
    return made, settlement


def held_texts(responses: Sequence[Response], settlement: Settlement) -> dict[str, str]:
    """Return for each member that answered the text it holds after the settlement: its own, or the one it adopted."""
    given = {response.member: response.text or "" for response in responses}
    return given | {one.member: given[one.author] for one in settlement.adopted}


def stable(before: Iteration, now: Iteration, threshold: float, likeness: Likeness = LEXICAL) -> bool:
    """Tell whether a round has left the answer as it was, and the members agree on it.

    Where answers were extracted: the same value won, and its share of all members that answered reaches `threshold`.
    Otherwise: the similarity of the two aggregates and the agreement of the answers both reach it. A single answer
    agrees with itself.
    """
    if before.synthesis is None or now.synthesis is None:
        return False
    answered = sum(response.answered for response in now.responses)
    if now.synthesis.value is not None:
        share = len(now.synthesis.votes.get(now.synthesis.value, [])) / max(1, answered)
        return before.synthesis.value == now.synthesis.value and share >= threshold
    agreement = 1.0 if now.agreement is None else now.agreement
    return agreement >= threshold and likeness.between(before.synthesis.text, now.synthesis.text) >= threshold


def _word_for_word(
    responses: Sequence[Response],
    votes: dict[str, list[str]],
    winner: str,
    method: str,
    likeness: Likeness,
    *,
    extracted: bool,
) -> Synthesis:
    """Return the answer of the member that is nearest to all that gave the winning value."""
    synthesis = nearest([response for response in responses if response.member in votes[winner]], method, likeness)
    synthesis.votes = votes
    synthesis.value = winner if extracted else None
    return synthesis


def _settlement(responses: Sequence[Response], values: Sequence[str | None], outcome: Outcome, seed: str) -> Settlement:
    members = [response.member for response in responses]
    return Settlement(
        rounds=outcome.rounds,
        settled=outcome.settled,
        value=outcome.winner,
        given=dict(zip(members, values, strict=True)),
        held=dict(zip(members, outcome.values, strict=True)),
        adopted=[
            Adopted(
                round=one.round,
                member=members[one.member],
                peer=members[one.peer],
                author=members[one.author],
                value=one.value,
            )
            for one in outcome.adoptions
        ],
        seed=seed,
    )
