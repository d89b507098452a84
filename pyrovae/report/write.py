"""`write_report`: from a run's folder to a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyrovae.data import Data
from pyrovae.errors import refusal
from pyrovae.files import Run, save_file_atomic
from pyrovae.report.page import RunPage, run_page
from pyrovae.report.subject import Subject, read_subject, require_same_rows
from pyrovae.report.versus import comparison_page

REPORT, COMPARISON = "report.html", "comparison.html"


def write_report(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str] | None = None,
    *,
    vae: Any = None,
    data: Data | None = None,
    rows: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Path:
    r"""Write one page of HTML that says what a run is, what came of it and how far to trust it.

    The page needs no network: figures are drawn inside it. Beside the numbers that the run keeps it shows estimates on a
    bounded number of test rows,

    .. math:: \log \hat p(x_i) = \log \tfrac1S \sum_s \frac{p(x_i, z_{si})}{q(z_{si} \mid x_i)}, \qquad S = 1000,

    and the findings of every check (:func:`pyrovae.diagnose`), in nats per datum at beta 1. What cannot be done, for want
    of the data or otherwise, is left out, and the page says why.

    Args:
        runs: the folder of a run, or folders of several runs on the same data, which are compared row by row.
        path: the file to write; by default ``report.html`` in the run's folder, or ``comparison.html`` for several.
        vae: the run's VAE, where it is at hand, or where no file can rebuild it: any graph. For one run.
        data: the run's data with their splits and covariates, where they are at hand, or have no name to be found by.
        rows: test rows for log p(x), chosen at random; by default 10 to 200, as the model's size allows.
        seed: of all rows and draws.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        The path of the page. It is written whole or not at all.

    Raises:
        FileNotFoundError: a folder holds no run.
        DamagedError: a file of a run was altered or is truncated.
        ValueError: the runs are of different data, or one folder is given twice.
        OSError: the page cannot be written.

    >>> import tempfile
    >>> import pyrovae as pvae
    >>> digits = pvae.data.load("digits")
    >>> vae = pvae.build_vae((1, 8, 8), likelihood="binomial", levels=17, latent_dim=2, hidden=(16,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = pvae.save(vae, folder, data=digits.train)
    ...     write_report(run, rows=10).name
    'report.html'
    """
    if rows is not None and rows < 2:
        raise refusal(f"rows must be at least 2, got {rows}", "rows")
    folders = [Path(runs)] if isinstance(runs, str | os.PathLike) else [Path(run) for run in runs]
    if len(folders) == 1:
        page = RunPage(read_subject(folders[0], vae=vae, data=data), rows, seed, progress)
        return save_file_atomic(path or folders[0] / REPORT, run_page(page).encode())
    subjects = _subjects(folders, vae, data)
    pages = [RunPage(subject, rows, seed, progress) for subject in subjects]
    return save_file_atomic(path or COMPARISON, comparison_page(pages, rows, seed).encode())


def _subjects(folders: Sequence[Path], vae: Any, data: Data | None) -> list[Subject]:
    if vae is not None:
        raise refusal("vae= goes with one run, of which it is the VAE: leave it out", "vae")
    if not folders or len({folder.resolve() for folder in folders}) < len(folders):
        raise refusal(f"give folders of different runs, got {', '.join(map(str, folders)) or 'none'}", "runs")
    names = [folder.resolve().name for folder in folders]
    names = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    first = read_subject(folders[0], names[0], data=data)
    subjects = [first]
    for folder, name in zip(folders[1:], names[1:], strict=True):
        kept = Run.read(folder).config["data"]
        same = kept and kept.get("fingerprint") == first.kept.get("fingerprint")
        subjects.append(read_subject(folder, name, data=first.data if same else None))
    require_same_rows({subject.name: subject.kept for subject in subjects})
    return subjects
