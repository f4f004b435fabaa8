"""Free texts that say much the same, in groups: found from how alike they are."""

from collections.abc import Sequence

from consensus_flows.tasks.counting.likeness import LEXICAL, Likeness


def clusters(texts: Sequence[str], alike: float, likeness: Likeness = LEXICAL) -> list[int]:
    """Return for each text the number of its group; groups are numbered from 0 in the order of their first text.

    Complete linkage: in a group every two texts are at least `alike`. A chain of texts, each like its neighbour, is
    therefore not one group. The nearest groups are joined first, of equally near ones the earliest.

    Args:
        texts: The texts.
        alike: Similarity, 0 to 1, from which two texts may be in one group.
        likeness: How similarity is measured.
    """
    compared = likeness.among(texts)
    near = {(one, other): compared(one, other) for other in range(len(texts)) for one in range(other)}
    groups = [[index] for index in range(len(texts))]
    while len(groups) > 1:
        linked = {
            (first, second): min(near[min(a, b), max(a, b)] for a in groups[first] for b in groups[second])
            for second in range(len(groups))
            for first in range(second)
        }
        first, second = max(linked, key=lambda pair: (linked[pair], -pair[0], -pair[1]))
        if linked[first, second] < alike:
            break
        groups[first] += groups.pop(second)
    numbers = {index: number for number, group in enumerate(groups) for index in group}
    return [numbers[index] for index in range(len(texts))]
