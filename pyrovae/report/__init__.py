"""A run as one page of HTML: what was trained on what, what came of it, and how far to trust it."""

from pyrovae.report.write import write_report

__all__ = ["write_report"]
