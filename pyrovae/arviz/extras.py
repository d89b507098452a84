"""Groups that are not made row by row of the data: predictions of new rows, and the ranks of a calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from pyrovae.arviz.blocks import Arrays, covariates_of, drawn_data, joined
from pyrovae.arviz.running import Runner
from pyrovae.arviz.sites import Named, variable
from pyrovae.checks import SBC
from pyrovae.data import as_data, batches
from pyrovae.programs.draws import Draws
from pyrovae.programs.program import callable_without_data


class NewRows:
    """Rows that have covariates and no data.

    Args:
        draws: the program.
        covariates: one row a prediction for each name.

    Raises:
        ValueError: the model needs data to be called.
    """

    def __init__(self, draws: Draws, covariates: Mapping[str, Any]) -> None:
        if not callable_without_data(draws.program.model):
            raise ValueError(
                "predictions of new rows need a model that samples its data when it is called without them: write "
                "def model(x=None, covariates=None, size=None)"
            )
        self.draws, size = draws, len(next(iter(covariates.values())))
        place = draws.batches.place
        self.rows = as_data(torch.zeros(size, 1), covariates)
        self.batches = batches(self.rows, draws.batches.size, shuffle=False, device=place.device, dtype=place.dtype)

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, runners: Sequence[Runner], sites: Iterable[str]) -> Iterator[tuple[slice, Arrays]]:
        """Batch by batch: data drawn at the runners' global draws, and the covariates.

        Args:
            runners: which have drawn the global latents, if there are any.
            sites: the data sites.
        """
        done = 0
        for batch in self.batches:
            rows = slice(done, done + len(batch.index))
            call = self.draws.call(batch, guide=self.draws.program.model)  # no guide is run
            traces = (runner.simulate(runner.global_draws, call) for runner in runners)
            drawn = joined([{"predictions": drawn_data(trace, sites)} for trace in traces])
            yield rows, drawn | {"predictions_constant_data": covariates_of(self.rows[rows])}
            done = rows.stop


def ranks(result: SBC) -> Arrays:
    r"""The ranks of a calibration as numbers in (0, 1), uniform for an exact guide.

    .. math:: u = \frac{r + 1/2}{S + 1}

    Args:
        result: of :func:`pyrovae.sbc`.
    """
    every = {**{variable(name): found for name, found in result.ranks.items()}, "log_joint": result.log_joint_ranks}
    scaled = {name: (found + 0.5) / (result.num_draws + 1) for name, found in every.items()}
    return {"prior_sbc": {name: Named(array, (None,) * (array.ndim - 1)) for name, array in scaled.items()}}
