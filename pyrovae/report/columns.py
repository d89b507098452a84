"""Data that are no images, column by column: what the rows are, what the model draws, what it gives back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pyrovae.data import Data
from pyrovae.report.codes import reconstructed
from pyrovae.report.html import Html, element, table

ROWS, COLUMNS = 1000, 20


def column_table(vae: Any, data: Data, seed: int) -> Html | None:
    """Means and standard deviations of the columns of test rows and of draws of the model; None for other shapes.

    Args:
        vae: the VAE.
        data: the test rows, vectors.
        seed: of the draws.
    """
    if not isinstance(data.event_shape, tuple) or len(data.event_shape) != 1:
        return None
    x = data[:ROWS].dense().x
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = vae.sample(ROWS)
    rows, again, draws = (np.asarray(values.double().cpu()) for values in (x, reconstructed(vae, x), drawn))
    names = data.columns or tuple(f"x[{number}]" for number in range(rows.shape[1]))
    shown = range(min(COLUMNS, rows.shape[1]))
    lines = [
        [names[n], _moments(rows[:, n]), _moments(draws[:, n]), _agreement(rows[:, n], again[:, n])] for n in shown
    ]
    heads = ["column", "test rows, mean (sd)", "prior samples, mean (sd)", "correlation with reconstruction"]
    left = rows.shape[1] - len(lines)
    more = f" The first {len(lines)} of {rows.shape[1]} columns." if left else ""
    note = f"{len(rows):,} test rows beside {ROWS:,} draws of the model, and beside their own reconstructions.{more}"
    made = element("div", table(heads, lines, "Columns of the data and of the model"), class_="numbers")
    return element("div", element("h3", "Columns"), element("p", note, class_="note"), made)


def _moments(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "–"
    return f"{known.mean():.4g} ({known.std():.3g})".replace("-", "−")


def _agreement(values: np.ndarray, again: np.ndarray) -> str:
    known = np.isfinite(values) & np.isfinite(again)
    first, second = values[known], again[known]
    if known.sum() < 3 or first.std() == 0 or second.std() == 0:
        return "–"
    return f"{np.corrcoef(first, second)[0, 1]:.2f}".replace("-", "−")
