"""Does the model make data like these by itself? Statistics of the data among data sets drawn from the prior."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pyrovae.checks import predictive
from pyrovae.checks.findings import Case, Check, Finding

if TYPE_CHECKING:
    import xarray as xr


def _run(case: Case) -> xr.Dataset:
    options = {"kind": "prior", "num_samples": case.num_replicates, **case.options}
    return predictive.predictive_check(case.program, case.some, **options).dataset


def judge(found: xr.Dataset) -> list[Finding]:
    """The statistics that draws of the model do not reproduce, Bonferroni-adjusted."""
    advice = (
        "Where replicates from the posterior reproduce them, the latents miss the prior: a learned prior (mixture, VampPrior, "
        "flow) may help; else a likelihood of another family."
    )
    return [
        replace(finding, about="generated data", advice=advice if finding.advice else "")
        for finding in predictive.judge(found)
    ]


PRIOR = Check("prior", _run, judge, draw=predictive.draw)
