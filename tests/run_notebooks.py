"""Run notebooks from top to bottom in a fresh kernel and store what they show: ``python tests/run_notebooks.py 01 07``.

Names may be shortened to their beginning; without any, all notebooks are run. What is stored depends on nothing but the
cells: ids count the cells, the kernel is plain ``python3``, times and versions are left out.
"""

from __future__ import annotations

import argparse
import base64
import os
import pathlib
import shutil
import tempfile
import time

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"
CELL_TIMEOUT = 1200
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# A backend or a test runner named by the environment would change what the kernel shows.
NOT_INHERITED = ("MPLBACKEND", "PYTEST_CURRENT_TEST")


def execute(path: pathlib.Path) -> tuple[nbformat.NotebookNode, float]:
    """The notebook as run in a temporary copy of its folder, without its stored outputs, and the seconds it took.

    Raises:
        CellExecutionError: a cell failed.
        CellTimeoutError: a cell took longer than ``CELL_TIMEOUT`` seconds.
    """
    book = tidy(nbformat.read(path, as_version=4))
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place, "notebooks")
        shutil.copytree(path.parent, folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        client = NotebookClient(
            book,
            timeout=CELL_TIMEOUT,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            record_timing=False,
            coalesce_streams=True,
        )
        began = time.monotonic()
        client.execute(env={**environment, "IPYTHONDIR": str(pathlib.Path(place, "ipython"))})
    book.metadata = METADATA
    return book, time.monotonic() - began


def tidy(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without outputs, times and versions; cell ids count the cells."""
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    book.metadata = METADATA
    book.nbformat_minor = 5
    return book


def complaints(book: nbformat.NotebookNode) -> list[str]:
    """What the cells wrote to stderr."""
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    return [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]


def figures(book: nbformat.NotebookNode) -> list[bytes]:
    """The PNG images of all cells, in order."""
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    return [base64.b64decode(o.data["image/png"]) for o in outputs if "image/png" in o.get("data", {})]


def find(names: list[str]) -> list[pathlib.Path]:
    """The files of the notebooks whose names begin so, or of all."""
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    unknown = [name for name in names if not any(path.stem.startswith(name) for path in paths)]
    if unknown:
        raise SystemExit(f"no notebook begins with {unknown[0]!r}; there are: {', '.join(path.stem for path in paths)}")
    return [path for path in paths if not names or path.stem.startswith(tuple(names))]


def main() -> None:
    """Run the notebooks that the command line names, store them and say how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of names; all notebooks by default")
    parser.add_argument("--figures", type=pathlib.Path, help="a folder for each figure as a PNG, to look at")
    words = parser.parse_args()
    for path in find(words.names):
        book, seconds = execute(path)
        nbformat.write(book, path)
        print(f"{path.stem}: {seconds:.0f} s, {path.stat().st_size / 1000:.0f} kB")
        for text in complaints(book):
            print(f"  wrote to stderr: {text.strip()}")
        if words.figures:
            words.figures.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(figures(book)):
                (words.figures / f"{path.stem}-{number:02d}.png").write_bytes(image)


if __name__ == "__main__":
    main()
