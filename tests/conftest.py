"""What every test may rely on."""

import os
import sys

import pytest

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # there is a worker for each core: threads, of kernels and commands too, would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def pairs(monkeypatch):
    """Sets how many pairs of a draw and a row are run at once, so that small data are cut into blocks and tiles."""
    return lambda number: monkeypatch.setattr("pyrovae.programs.rows.PAIRS", number)


@pytest.fixture
def small_pages(monkeypatch):
    """Pages are of few rows and replicates; those that a fixture of wider scope makes have all of them."""
    for name, number in {"REPLICATES": 40, "CHECK_ROWS": 60, "ROWS": 60}.items():
        monkeypatch.setattr(f"pyrovae.report.page.{name}", number)


@pytest.fixture(autouse=True)
def clean_state(request):
    """An empty parameter store and one random state before each test, and gradients on after it, in whatever order they run.

    Neither pyro nor torch is imported here: the bridge to ArviZ is also tested where there is no torch.
    A generator of numpy that a file of tests calls ``RNG`` starts anew, too.
    """
    if "pyro" in sys.modules:
        sys.modules["pyro"].clear_param_store()
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    if (rng := getattr(getattr(request, "module", None), "RNG", None)) is not None:
        rng.bit_generator.state = type(rng.bit_generator)(0).state
    yield
    if "torch" in sys.modules:
        assert sys.modules["torch"].is_grad_enabled(), "this test, or what it tests, left gradients switched off"
