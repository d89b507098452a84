"""Training that is killed, cut off, or runs out of disk, and goes on as if nothing had happened."""

import functools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import killed
import pytest
import torch
from disks import another_process, file_size_limit, tmpfs
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pvae
from pyrovae.files import CheckpointStore, InUseError, load_state

SCRIPT = Path(killed.__file__)
MOMENTS = ["data", "forward", "updated", "validation", "half written", "written", "renamed", "rotated"]


def run_script(folder, result, *options):
    command = [sys.executable, str(SCRIPT), str(folder), str(result), *options]
    return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})


def assert_same_outcome(left, right):
    for name, value in left["state"].items():
        assert torch.equal(value, right["state"][name]), name
    assert left["history"] == right["history"]
    assert (left["ended"], left["best_epoch"]) == (right["ended"], right["best_epoch"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The outcome of an uninterrupted run, in another process."""
    folder = tmp_path_factory.mktemp("whole")
    assert run_script(folder / "run", folder / "result").returncode == 0
    return load_state(folder / "result")


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_one_seed_gives_one_result_in_two_processes(whole, tmp_path, one_thread):
    assert_same_outcome(killed.outcome(*killed.train(tmp_path)), whole)


def test_everything_that_could_go_wrong_is_on(whole):
    rows = whole["history"]
    assert len(rows) == killed.EPOCHS
    assert len({row["beta"] for row in rows}) > 3
    assert len({row["learning_rate"] for row in rows}) == killed.EPOCHS
    assert max(row["gradient_norm"] for row in rows) > 3.0
    assert all(row["validation_elbo"] is not None for row in rows)
    assert any("running_var" in name for name in whole["state"])
    assert whole["ended"] == "finished"
    assert whole["best_epoch"] is not None


def test_killed_at_every_kind_of_moment_it_ends_as_if_nothing_had_happened(whole, tmp_path):
    counts = random.Random(0)
    moments = [f"{moment}:{counts.randint(1, 4)}" for moment in MOMENTS]
    assert run_script(tmp_path / "run", tmp_path / "result", "--moments", *moments).returncode == 0
    result = load_state(tmp_path / "result")
    assert result["codes"] == [-signal.SIGKILL] * len(MOMENTS)
    assert_same_outcome(result, whole)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert len(names) == 2
    assert all(name.startswith("checkpoint-") for name in names)


def test_a_program_whose_modules_hide_ends_as_if_nothing_had_happened_too(tmp_path):
    """Modules in a dict, one that replaces its buffer, parameters of ``pyro.param`` beside them, and covariates."""
    assert run_script(tmp_path / "whole", tmp_path / "expected", "--hidden").returncode == 0
    whole = load_state(tmp_path / "expected")
    assert {"offset", "spread", "encoder.0.mean"} < whole["state"].keys()
    assert all(value.ndim == 0 or value.abs().sum() > 0 for value in whole["state"].values())
    counts = random.Random(1)
    moments = [f"{moment}:{counts.randint(1, 4)}" for moment in MOMENTS]
    assert run_script(tmp_path / "run", tmp_path / "result", "--hidden", "--moments", *moments).returncode == 0
    result = load_state(tmp_path / "result")
    assert result["codes"] == [-signal.SIGKILL] * len(MOMENTS)
    assert_same_outcome(result, whole)


def test_sigterm_saves_and_ends_the_process_and_it_resumes(whole, tmp_path, one_thread):
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import killed, os, signal, torch\n"
        "torch.set_num_threads(1)\n"
        "def stop(history):\n    os.kill(os.getpid(), signal.SIGTERM) if len(history) == 2 else None\n"
        "killed.train(sys.argv[1], callbacks=[stop], checkpoint_steps=None)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == -signal.SIGTERM
    assert len(CheckpointStore(tmp_path).load_latest()[0]["history"]) == 2
    assert_same_outcome(killed.outcome(*killed.train(tmp_path)), whole)


def stop_after(epochs):
    """A callback that ends training as Ctrl-C would."""
    return lambda history: signal.raise_signal(signal.SIGINT) if len(history) == epochs else None


def test_a_damaged_newest_checkpoint_costs_some_steps_and_nothing_else(whole, tmp_path, one_thread):
    _, history = killed.train(tmp_path, callbacks=[stop_after(3)])
    assert history.ended == "interrupted"
    newest = CheckpointStore(tmp_path).paths[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged.*Going on from the one before"):
        resumed = killed.train(tmp_path)
    assert_same_outcome(killed.outcome(*resumed), whole)


def test_a_full_disk_stops_training_and_loses_nothing(whole, tmp_path, one_thread):
    killed.train(tmp_path, callbacks=[stop_after(2)])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    vae = killed.program()
    start = {name: value.clone() for name, value in vae.state_dict().items()}
    with file_size_limit(10_000), pytest.raises(OSError, match=r"cannot write 'checkpoint-.*file-size limit: raise it"):
        killed.train(tmp_path, vae=vae)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert not all(torch.equal(value, start[name]) for name, value in vae.state_dict().items())
    assert all(value.isfinite().all() for value in vae.state_dict().values())
    assert_same_outcome(killed.outcome(*killed.train(tmp_path)), whole)


def test_a_folder_in_use_or_not_writable_is_refused_before_the_first_step(tmp_path, one_thread):
    vae, seen = killed.program(), []
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    with another_process("lock", tmp_path / "used"), pytest.raises(InUseError, match="in use by process"):
        killed.train(tmp_path / "used", vae=vae, callbacks=[seen.append])
    with tmpfs(tmp_path / "disk", "ro") as folder, pytest.raises(OSError, match="read-only: choose another folder"):
        killed.train(folder, vae=vae, callbacks=[seen.append])
    assert not seen
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


@pytest.mark.parametrize(
    "own_generator",
    [False, True],
)
def test_a_loader_of_one_s_own_resumes_from_the_start_of_an_epoch(tmp_path, one_thread, own_generator):
    def run(folder, epochs_until_stop=None, **options):
        vae = killed.program()
        rows = TensorDataset(killed.digits().x.round())
        generator = torch.Generator().manual_seed(1) if own_generator else None
        loader = DataLoader(rows, batch_size=64, shuffle=True, generator=generator)
        callbacks = [] if epochs_until_stop is None else [stop_after(epochs_until_stop)]
        settings = {"epochs": 4, "seed": 0, "progress": False, "checkpoint_steps": 1, "checkpoint_minutes": None}
        return vae, pvae.fit(vae, loader, checkpoint=folder, callbacks=callbacks, **settings, **options)

    expected = killed.outcome(*run(tmp_path / "whole"))
    run(tmp_path / "cut", epochs_until_stop=2)
    assert_same_outcome(killed.outcome(*run(tmp_path / "cut", resume=True)), expected)


class Secretive(torch.optim.SGD):
    """An optimizer whose state no file can hold."""

    def state_dict(self):
        return {**super().state_dict(), "closure": lambda: None}


def test_an_optimizer_whose_state_cannot_be_saved_is_refused_before_training(tmp_path):
    vae = killed.program()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    with pytest.raises(TypeError, match=r"optimizer\.others\.closure is of type function"):
        killed.train(
            tmp_path / "run",
            vae=vae,
            optimizer=functools.partial(Secretive, lr=0.1),
            weight_decay=0.0,
        )
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_something_else_is_refused_and_nothing_moves(tmp_path):
    CheckpointStore(tmp_path).save({"weights": {}, "note": "not a training"}, step=3)
    vae = killed.program()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    with pytest.raises(ValueError, match="is no checkpoint of a training, it lacks best, counters, history"):
        killed.train(tmp_path, vae=vae, resume=True)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_a_checkpoint_in_another_dtype_is_refused(tmp_path, one_thread):
    settings = {"epochs": 1, "seed": 0, "checkpoint": tmp_path, "checkpoint_steps": 1, "progress": False}
    pvae.fit(killed.program().double(), killed.digits().x[:64].round(), **settings)
    with pytest.raises(ValueError, match=r"dtype|another program"):
        pvae.fit(killed.program(), killed.digits().x[:64].round(), resume=True, **settings)


def test_a_training_by_graphs_goes_on_as_if_nothing_had_happened_too(tmp_path):
    assert run_script(tmp_path / "whole", tmp_path / "expected", "--level", "trace").returncode == 0
    counts = random.Random(2)
    moments = [f"{moment}:{counts.randint(1, 4)}" for moment in MOMENTS]
    assert run_script(tmp_path / "run", tmp_path / "result", "--level", "trace", "--moments", *moments).returncode == 0
    result = load_state(tmp_path / "result")
    assert result["codes"] == [-signal.SIGKILL] * len(MOMENTS)
    assert_same_outcome(result, load_state(tmp_path / "expected"))
