"""Names and lists for people: ``z[3]``, ``z[0], z[1] and 4 more``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def entry_names(site: str, chosen: ArrayLike) -> list[str]:
    """The names of the entries of a site at which ``chosen`` is true.

    >>> entry_names("z", [False, True]), entry_names("z1", True)
    (['z[1]'], ['z1'])
    """
    chosen = np.asarray(chosen)
    if chosen.ndim == 0:
        return [site] if chosen else []
    return [f"{site}[{', '.join(map(str, index))}]" for index in np.argwhere(chosen)]


def listed(names: Sequence[str], most: int = 4) -> str:
    """A list in words, cut after ``most`` names.

    >>> listed(["z[0]", "z[1]", "z[2]"]), listed([f"z[{i}]" for i in range(9)], most=2)
    ('z[0], z[1] and z[2]', 'z[0], z[1] and 7 more')
    """
    names = list(names)
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def share(part: int, whole: int) -> str:
    """A count and its percentage.

    >>> share(3, 200)
    '3 of 200 rows (1.5 %)'
    """
    return f"{part} of {whole} rows ({100 * part / max(whole, 1):.3g} %)"
