"""The notebooks run from top to bottom without a word on stderr, and what is stored is what such a run shows."""

import ast
import io
import json
import re

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from run_notebooks import METADATA, NOTEBOOKS, complaints, execute, figures

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
EXPECTED = [
    "01_quickstart",
    "02_swap_the_prior",
    "03_swap_the_likelihood",
    "04_compare_models",
    "05_posterior_diagnostics",
    "06_beta_and_collapse",
    "07_your_own_parts",
    "08_covariates_and_missing_data",
    "09_mathematics",
    "10_levels_and_labels",
    "11_questionnaire",
    "12_anomalies",
    "13_compression",
    "14_generation",
    "15_how_many_latents",
    "16_is_the_difference_real",
    "17_what_the_evidence_says",
    "18_modalities",
    "19_sequences",
    "20_your_own_model",
]
MACHINE = re.compile(
    r"(?<![\w.:/])/(home|root|tmp|work|Users|opt|usr|var|mnt|private|content)/|\b[A-Z]:\\|site-packages|ipykernel_\d"
)
WARNING = re.compile(r"\w*Warning:|Traceback \(most recent call last\)")
PROGRESS = re.compile(r"\d+%\s*\||[\d?]\s?(it/s|s/it)\b|[█▏▎▍▌▋▊▉]|\r")
each = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


def read(path):
    return nbformat.read(path, as_version=4)


def code(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def outputs(book):
    return [output for cell in code(book) for output in cell.outputs]


def shown(book):
    """All text that the cells show; images are left out."""
    texts = []
    for output in outputs(book):
        texts += [output.get("text", ""), *output.get("traceback", ())]
        texts += [str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/")]
    return "\n".join(texts)


def test_all_notebooks_are_there():
    assert [path.stem for path in PATHS] == EXPECTED


@each
def test_it_runs_from_top_to_bottom_without_a_word_on_stderr(path, record_property):
    book, seconds = execute(path)
    record_property("seconds", round(seconds))
    print(f"{path.stem}: {seconds:.0f} s")
    assert complaints(book) == []
    assert len(figures(book)) == len(figures(read(path))), "the stored figures are of another version: run it again"


@each
def test_figures_have_the_style_of_the_house(path):
    source = "\n".join(cell.source for cell in code(read(path)))
    assert "plt." not in source or "plt.rcParams.update(pvae.plots.STYLE)" in source


@each
def test_what_is_stored_was_run_in_order(path):
    assert [cell.execution_count for cell in code(read(path))] == list(range(1, len(code(read(path))) + 1))


@each
def test_it_shows_no_error_no_warning_and_no_progress_bar(path):
    book = read(path)
    assert complaints(book) == []
    assert [output.ename for output in outputs(book) if output.output_type == "error"] == []
    assert not WARNING.search(shown(book)), WARNING.search(shown(book))
    assert not PROGRESS.search(shown(book)), PROGRESS.search(shown(book))


@each
def test_it_names_no_place_on_a_machine(path):
    book = read(path)
    text = "\n".join([*(cell.source for cell in book.cells), shown(book)])
    assert not MACHINE.search(text), MACHINE.search(text)


@each
def test_it_ends_in_a_figure_that_is_not_empty(path):
    image = pytest.importorskip("PIL.Image")
    with_image = [o.data for o in outputs(read(path)) if any(kind.startswith("image/") for kind in o.get("data", {}))]
    assert with_image, "a notebook shows at least one figure"
    assert "image/png" in with_image[-1]
    with image.open(io.BytesIO(figures(read(path))[-1])) as last:
        assert min(last.size) >= 150
        darkest, brightest = last.convert("L").getextrema()
    assert brightest - darkest > 100


@each
def test_it_is_small_and_begins_with_a_title(path):
    assert path.stat().st_size < 1e6
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")


@each
def test_it_depends_on_nobodys_kernel_and_its_cells_are_counted(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    assert set(book["metadata"]) <= set(METADATA)
    assert book["metadata"]["kernelspec"] == METADATA["kernelspec"]
    assert book["metadata"]["language_info"]["name"] == "python"
    assert [cell["id"] for cell in book["cells"]] == [f"cell-{i:02d}" for i in range(len(book["cells"]))]
    assert all(set(cell["metadata"]) <= {"tags"} for cell in book["cells"])


@pytest.mark.skipif("07_your_own_parts" not in [path.stem for path in PATHS], reason="the notebook is not there")
def test_a_new_prior_and_a_new_likelihood_are_compared_within_ten_lines():
    book = read(NOTEBOOKS / "07_your_own_parts.ipynb")
    (cell,) = [cell for cell in code(book) if "ten-lines" in cell.metadata.get("tags", ())]
    lines = [line for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(lines) <= 10
    assert ";" not in cell.source
    tree = ast.parse(cell.source)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert [ast.unparse(node.bases[0]) for node in classes] == ["nn.Module", "nn.ModuleList"]
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert "pvae.fit" in calls
    assert "pvae.compare" in calls


@pytest.mark.parametrize(
    ("pattern", "caught", "passed"),
    [
        (MACHINE, ["/home/ann/x.py", "in /tmp/a", r"C:\Users", "lib/site-packages/torch"], ["p(x)/tmp", "a/home/b"]),
        (WARNING, ["UserWarning: no", "Warning: no"], ["A warning follows", "Traceback"]),
        (PROGRESS, [" 10%|█", "3.2it/s", "a\rb"], ["10 % of rows", "units/s"]),
    ],
)
def test_the_patterns_catch_what_they_should(pattern, caught, passed):
    assert all(pattern.search(text) for text in caught)
    assert not any(pattern.search(text) for text in passed)


def test_the_runner_sees_stderr_and_stops_at_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")  # the environment's choice must not hide figures
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import sys, matplotlib.pyplot as plt")])
    book.cells.append(nbformat.v4.new_code_cell("print('a word', file=sys.stderr)\nplt.plot([1, 2]);"))
    path = tmp_path / "book.ipynb"
    nbformat.write(book, path)
    run, _ = execute(path)
    assert complaints(run) == ["a word\n"]
    assert len(figures(run)) == 1
    book.cells.append(nbformat.v4.new_code_cell("1 / 0"))
    nbformat.write(book, path)
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(path)
