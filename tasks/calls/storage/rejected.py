"""Which stored records were found to be none of ours, until the call that asks again has said so."""

from collections import OrderedDict
from pathlib import PurePath

MOST = 10_000
"""Records remembered at most: of a call that is never made nobody takes the note away."""

_rejected: OrderedDict[str, None] = OrderedDict()


def note_rejected(key: str) -> None:
    """Note that the record of `key`, a storage key or a path that ends in it, was not used."""
    _rejected[PurePath(key).name] = None
    if len(_rejected) > MOST:
        _rejected.popitem(last=False)


def was_rejected(key: str) -> bool:
    """Tell once whether the record of `key` was not used."""
    return _rejected.pop(PurePath(key).name, _rejected) is None
