"""How the tests share the machine: the whole suite on all cores, one thread for each worker; a chosen part in one process."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: its threads would fight with the other workers'
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """No workers where files or names are chosen: starting them takes longer than most files. ``-n 2`` asks for some."""
    chosen = config.args_source is not pytest.Config.ArgsSource.TESTPATHS or config.option.keyword
    return 0 if chosen else None
