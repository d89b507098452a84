"""Figures: what they say in words, what they refuse, and what they leave untouched."""

from __future__ import annotations

import inspect
import subprocess
import sys
from unittest import mock

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from plot_cases import CASES, axes_of, figure_of, pixels

from pyrovae import plots
from pyrovae.plots.style import CLASSES, both_papers, new_figure

FIGURES = [name for name in plots.__all__ if name.startswith("plot_")]
case = pytest.mark.parametrize("name", CASES)


def words(figure) -> list[str]:
    """All words in a figure that a reader sees."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]


def converted(values, how):
    """The same arguments with every array of floats replaced."""
    if isinstance(values, dict):
        return {key: converted(value, how) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(converted(value, how) for value in values)
    return how(values) if isinstance(values, np.ndarray) and values.dtype.kind == "f" else values


def arrays_in(values) -> list[np.ndarray]:
    found = []
    converted(values, lambda array: found.append(array) or array)
    return found


def test_every_figure_has_a_case_and_a_documented_signature():
    assert {CASES[name].function.__name__ for name in CASES} == set(FIGURES)
    for name in FIGURES:
        function = getattr(plots, name)
        axis = inspect.signature(function).parameters["ax"]
        assert axis.default is None
        assert axis.kind is inspect.Parameter.KEYWORD_ONLY
        assert "Raises:" in function.__doc__


@case
def test_labels_units_and_legend_are_there(name):
    drawn = CASES[name].draw()
    axes = axes_of(drawn)
    assert isinstance(axes[0], Axes)
    assert len(axes) == CASES[name].panels
    said = words(figure_of(drawn))
    for label in CASES[name].labels:
        assert any(label in text for text in said), (label, said)
    legends = [text.get_text() for panel in axes if panel.get_legend() for text in panel.get_legend().get_texts()]
    for label in CASES[name].legend:
        assert label in legends


def drawn_texts(figure) -> list[Text]:
    """The texts that are drawn: an axis lists ticks beyond its limits too."""
    seen, draw = [], Text.draw

    def record(text, renderer, *args, **kwargs):
        seen.append(text)
        return draw(text, renderer, *args, **kwargs)

    with mock.patch.object(Text, "draw", record):
        figure.draw_without_rendering()
    return [text for text in seen if text.get_text().strip() and text.get_visible()]


@case
def test_text_neither_overlaps_nor_leaves_the_figure(name):
    figure = figure_of(CASES[name].draw())
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn_texts(figure)]
    page = figure.bbox
    for index, (text, box) in enumerate(boxes):
        beyond = max(page.x0 - box.x0, box.x1 - page.x1, page.y0 - box.y0, box.y1 - page.y1)
        assert beyond < 1.0, text
        for other, second in boxes[index + 1 :]:
            wide = min(box.x1, second.x1) - max(box.x0, second.x0)
            tall = min(box.y1, second.y1) - max(box.y0, second.y0)
            assert min(wide, tall) < 2.0, (text, other)


@case
def test_arguments_settings_generators_and_pyplot_are_left_alone(name):
    arrays = arrays_in([CASES[name].args, CASES[name].kwargs])
    before = [array.copy() for array in arrays]
    settings, numbers, draws = dict(matplotlib.rcParams), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    figure_of(CASES[name].draw()).draw_without_rendering()
    assert all(np.array_equal(old, new, equal_nan=True) for old, new in zip(before, arrays, strict=True))
    assert dict(matplotlib.rcParams) == settings
    assert np.array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), draws)
    assert pyplot.get_fignums() == []


@case
def test_tensors_on_grad_look_like_arrays(name):
    held = CASES[name]
    args, kwargs = (converted(part, lambda a: torch.tensor(a, requires_grad=True)) for part in (held.args, held.kwargs))
    first, second = (pixels(figure_of(drawn), 60, "white") for drawn in (held.draw(), held.function(*args, **kwargs)))
    assert np.array_equal(first, second)


@case
def test_given_axes_are_drawn_on(name):
    figure = Figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn = axes_of(CASES[name].draw(ax=left))
    assert all(axes.figure is figure for axes in drawn)
    assert not right.has_data()
    assert figure.axes[:2] == [left, right]  # a color bar may come after them
    assert left.has_data() or any(axes.has_data() for axes in left.child_axes)


@case
def test_something_else_than_axes_is_refused(name):
    with pytest.raises(TypeError, match="ax should be one matplotlib Axes, got Figure"):
        CASES[name].draw(ax=Figure())


# Colors -----------------------------------------------------------------------------------------------------------------


def linear_light(color) -> list[float]:
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]


def luminance(color) -> float:
    return float(np.dot([0.2126, 0.7152, 0.0722], linear_light(color)))


def contrast(first, second) -> float:
    """The contrast of the web accessibility guidelines (WCAG 2.1): 1 to 21."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("theme", "papers", "least"),
    [({}, ["white"], 7), (plots.DARK, [plots.DARK["figure.facecolor"]], 7), (plots.NEUTRAL, ["white", "black"], 3.5)],
    ids=["light", "dark", "neutral"],
)
@case
def test_all_text_stands_out_from_the_page(name, theme, papers, least):
    with matplotlib.rc_context(theme):
        figure = figure_of(CASES[name].draw())
        figure.draw_without_rendering()
    assert theme.get("figure.facecolor") != "none" or figure.get_facecolor()[3] == 0
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_alpha() is None:
            assert all(contrast(text.get_color(), paper) > least for paper in papers), text


@pytest.mark.parametrize("paper", ["white", "black", plots.DARK["figure.facecolor"]])
def test_series_stand_out_from_the_page(paper):
    assert all(contrast(color, paper) > 3 for color in plots.SERIES[:4])
    assert all(contrast(color, paper) > 2 for color in plots.SERIES)
    assert all(contrast(color, paper) > 1.8 for color in CLASSES)
    assert all(contrast(both_papers("viridis")(level), paper) > 1.8 for level in (0.0, 0.5, 1.0))


# Color vision deficiency by the matrices of Machado, Oliveira and Fernandes (2009), doi:10.1109/TVCG.2009.113.
DEFICIENT = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def least_difference(colors, deficiency) -> float:
    """The least distance in CIELAB, just noticeable at about 2.3, between colors as such a reader sees them."""
    linear = np.array(
        [[c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)] for color in colors]
    )
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    relative = np.clip(linear @ np.array(deficiency).T, 0, 1) @ to_xyz.T / to_xyz.sum(1)
    f = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1)
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return apart[np.triu_indices(len(lab), 1)].min()


@pytest.mark.parametrize("kind", DEFICIENT)
def test_series_are_told_apart_by_color_blind_readers(kind):
    assert least_difference(plots.SERIES, DEFICIENT[kind]) > 15
    assert least_difference(CLASSES, DEFICIENT[kind]) > 13
    assert len(set(CLASSES)) == 10


@pytest.mark.parametrize("kind", ["protan", "deutan"])
def test_the_measure_sees_that_the_usual_colors_are_confused(kind):
    assert least_difference(["C0", "C1", "C2", "C3", "C4", "C5"], DEFICIENT[kind]) < 8


# Where figures go --------------------------------------------------------------------------------------------------------


def test_pyplot_holds_the_figure_only_where_it_would_show_it():
    assert pyplot.get_fignums() == []
    with matplotlib.rc_context({"interactive": True}):
        figure = new_figure(3, 2)
    assert pyplot.get_fignums() == [figure.number]
    pyplot.close(figure)
    new_figure(3, 2)
    assert pyplot.get_fignums() == []


def test_a_notebook_shows_every_figure_of_a_cell_and_keeps_none():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cells = [
        "import numpy as np\nfrom pyrovae import plots",
        "plots.plot_khat(np.linspace(0, 1, 9))\nax = plots.plot_samples(np.zeros((4, 8, 8)))",
        "from matplotlib import pyplot\nprint(pyplot.get_fignums())",
        "import matplotlib\nwith matplotlib.rc_context(plots.NEUTRAL):\n    ax = plots.plot_pit([0.5])",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    images = [["image/png" in output.get("data", {}) for output in cell.outputs] for cell in notebook.cells]
    assert images == [[], [True, True], [False], [True]]
    assert notebook.cells[2].outputs[0].text == "[]\n"


def test_importing_the_room_loads_no_heavy_module():
    code = (
        "import sys, pyrovae.plots as plots; [getattr(plots, name) for name in plots.__all__]; "
        "print([m for m in ('matplotlib', 'sklearn', 'scipy', 'pandas', 'pyro') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_axes_of_ones_own_take_the_style():
    with matplotlib.rc_context(plots.STYLE):
        ax = Figure().subplots()
        (line,) = ax.plot([0, 1])
        assert line.get_color() == plots.SERIES[0]
        assert not ax.spines["top"].get_visible()
