"""A training with everything on that can be told when to die; run by ``test_resume.py`` and ``benchmarks/kill_resume.py``.

    python tests/killed.py FOLDER RESULT [--moments MOMENT:COUNT ...] [--moment MOMENT:COUNT]

With ``--moments`` it forks a child for each, which resumes, trains on and kills itself at the COUNTth such moment; then it
trains to the end and writes weights and history to RESULT. With ``--moment`` it is such a child itself.
"""

import argparse
import functools
import os
import signal
import sys
import warnings

import pyro.distributions as dist
import torch
from torch import nn

import pyrovae as pvae
from pyrovae.files import save_state

EPOCHS, ROWS, BATCH = 6, 320, 32


@functools.cache
def digits():
    data = pvae.data.load("digits", "scaled")
    return pvae.data.Data(data.x[:ROWS], variant="dynamic", name="digits", seed=0, transform=pvae.data.Binarize())


def program():
    torch.manual_seed(0)
    options = {"normalization": nn.BatchNorm1d, "dropout": 0.2}
    return pvae.VAE(
        prior=pvae.GaussianMixture(event_shape=3, num_components=4),
        likelihood=pvae.Factorized(dist.Bernoulli, pvae.MLP(3, (24, 24), **options), (1, 8, 8)),
        posterior=pvae.Factorized(dist.Normal, pvae.MLP((1, 8, 8), (24, 24), **options), 3),
    )


def train(folder, resume=True, vae=None, **changes):
    """The VAE (with the best weights put back at the end) and the history."""
    vae = program() if vae is None else vae
    settings = {
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "learning_rate": pvae.schedules.one_cycle(1e-2, warm_up=0.3, epochs=EPOCHS),
        "beta": pvae.schedules.linear(0.0, 1.0, epochs=EPOCHS / 2),
        "clip_norm": 5.0,
        "weight_decay": 0.01,
        "validation": 0.2,
        "keep_best": True,
        "seed": 3,
        "progress": False,
        "checkpoint_steps": 3,
        "checkpoint_minutes": None,
    }
    history = pvae.fit(vae, digits(), checkpoint=folder, resume=resume, **{**settings, **changes})
    return vae, history


def outcome(vae, history):
    """What must be equal to the last bit: all but the seconds."""
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]
    return {"state": dict(vae.state_dict()), "history": rows, "ended": history.ended, "best_epoch": history.best_epoch}


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


class Countdown:
    """Dies when called for the ``count``-th time."""

    def __init__(self, count):
        self.left = count

    def __call__(self):
        self.left -= 1
        if self.left == 0:
            die()


def _before(owner, name, count):
    """Die at the start of a call."""
    original, tick = getattr(owner, name), Countdown(count)

    def wrapped(*args, **kwargs):
        tick()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _after(owner, name, count):
    """Die at the end of a call, before its caller knows."""
    original, tick = getattr(owner, name), Countdown(count)

    def wrapped(*args, **kwargs):
        result = original(*args, **kwargs)
        tick()
        return result

    setattr(owner, name, wrapped)


def _half_written(count):
    from pyrovae.files import atomic as files

    original, tick = files._write, Countdown(count)

    def half(path, content):
        def write(file):
            file.write(content[: len(content) // 2])
            file.flush()
            tick()
            file.write(content[len(content) // 2 :])

        original(path, write)

    files._write = half


def moments():
    from pyrovae.data import Binarize
    from pyrovae.training.step import Step
    from pyrovae.training.validation import Evaluation

    return {
        "data": functools.partial(_before, Binarize, "__call__"),
        "forward": functools.partial(_after, Step, "_loss_and_gradients"),
        "updated": functools.partial(_after, torch.optim.AdamW, "step"),
        "validation": functools.partial(_after, Evaluation, "_batch"),
        "half written": _half_written,
        "written": functools.partial(_before, os, "replace"),
        "renamed": functools.partial(_after, os, "replace"),
        "rotated": functools.partial(_after, os, "unlink"),
    }


def split(text):
    moment, count = text.rsplit(":", 1)
    return moment, int(count)


def run_and_die(folder, moment, count):
    moments()[moment](count)
    train(folder)


def fork(folder, moment, count):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            run_and_die(folder, moment, count)
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("result")
    parser.add_argument("--moments", nargs="*", default=[])
    parser.add_argument("--moment")
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits()
    if options.moment:
        run_and_die(options.folder, *split(options.moment))
    codes = [fork(options.folder, *split(text)) for text in options.moments]
    save_state(options.result, {"codes": codes, **outcome(*train(options.folder))})


if __name__ == "__main__":
    main()
