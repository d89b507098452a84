"""Figures against stored pictures. `python tests/test_plots_images.py [NAME ...]` draws stored ones anew: look at them then."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from plot_cases import CASES, figure_of, render, share_that_differs

BASELINES = Path(__file__).parent / "baseline_images"
TOLERANCE = 1e-4
STORED = [name for name, case in CASES.items() if case.stored]


def stored(name: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(BASELINES / f"{name}.png").convert("RGB"), dtype=np.float64)


def main_artists(figure) -> list[list]:
    """What carries the data, in groups that must not get lost: images, collections, named lines, all bars together."""
    groups = []
    for axes in [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]:
        named = [line for line in axes.lines if not line.get_label().startswith("_") and len(line.get_xydata())]
        groups += [[artist] for artist in (*axes.images, *axes.collections, *named)]
        groups += [list(axes.patches)] * bool(axes.patches)
    return groups


@pytest.mark.parametrize("name", STORED)
def test_the_figure_looks_as_stored_and_a_lost_artist_is_noticed(name):
    figure = figure_of(CASES[name].draw())
    assert share_that_differs(render(figure), stored(name)) < TOLERANCE
    figure.set_layout_engine("none")  # what is left stays where it is
    assert main_artists(figure)
    for lost in main_artists(figure):
        for artist in lost:
            artist.set_visible(False)
        assert share_that_differs(render(figure), stored(name)) > TOLERANCE, lost
        for artist in lost:
            artist.set_visible(True)


def test_the_stored_pictures_are_small_and_all_used():
    files = list(BASELINES.glob("*.png"))
    assert {file.stem for file in files} == set(STORED)
    assert sum(file.stat().st_size for file in files) < 600_000


def main() -> None:
    from PIL import Image

    BASELINES.mkdir(exist_ok=True)
    for name in sys.argv[1:] or STORED:
        image = Image.fromarray(render(figure_of(CASES[name].draw())).astype(np.uint8))
        image.quantize(64).save(BASELINES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
