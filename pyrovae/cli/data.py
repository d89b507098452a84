"""``pyrovae data``."""

from __future__ import annotations

from pyrovae.cli.output import say, show


def data() -> None:
    """List the named data sets, their variants, and where they lie."""
    from pyrovae.data import available

    found = available()
    rows = [(each.name, ", ".join(each.variants), f"{each.rows:,}", each.event_shape) for each in found]
    show(False, "data sets", ["name", "variants", "rows", "event shape"], rows)
    for each in found:
        say(False, f"{each.name}: {each.where}")
