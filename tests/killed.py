"""A training with everything on that can be told when to die; run by ``test_resume.py`` and ``benchmarks/kill_resume.py``.

    python tests/killed.py FOLDER RESULT [--hidden] [--level trace|compile] [--moments MOMENT:COUNT ...] [--moment MOMENT:COUNT]

It trains a VAE; with ``--hidden`` a pair of functions whose modules stand in a dict, beside parameters of ``pyro.param`` and
covariates; with ``--level`` it replays a graph or compiles it. With ``--moments`` it forks a child for each, which resumes,
trains on and kills itself at the COUNTth such moment; then it trains to the end and writes weights and history to RESULT. With
``--moment`` it is such a child itself.
"""

import argparse
import functools
import os
import signal
import sys
import warnings

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyrovae as pvae
from pyrovae.files import save_state

EPOCHS, ROWS, BATCH = 6, 320, 32
LEVEL = {"compile": False}


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


class Replacing(nn.Module):
    """A layer that replaces its buffer by a new tensor in each pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(64))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return x - self.mean


class Hidden:
    """A model and a guide that no module owns; it reads the covariate ``shift``."""

    def __init__(self):
        torch.manual_seed(0)
        pyro.clear_param_store()
        encoder = nn.Sequential(Replacing(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.Dropout(0.2), nn.Linear(24, 3))
        parts = {"encoder": encoder, "decoder": nn.Linear(3, 64)}

        def model(x, covariates=None):
            pvae.register(decoder=parts["decoder"])
            offset = pyro.param("offset", torch.zeros(64))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
                logits = parts["decoder"](z) + offset + covariates["shift"][:, None]
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x.flatten(1))

        def guide(x, covariates=None):
            pvae.register(encoder=parts["encoder"])
            spread = pyro.param("spread", torch.tensor(0.7), constraint=dist.constraints.positive)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(parts["encoder"](x.flatten(1)), spread).to_event(1))

        self.model, self.guide, self.parts = model, guide, nn.ModuleDict(parts)

    def state_dict(self):
        """The tensors of the modules and of the store."""
        store = {name: tensor.detach() for name, tensor in pyro.get_param_store()._params.items()}
        return {**self.parts.state_dict(), **store}


def train(folder, resume=True, vae=None, hidden=False, **changes):
    """The program (with the best weights put back at the end) and the history."""
    if vae is None:
        vae = Hidden() if hidden else program()
    data = digits()
    if isinstance(vae, Hidden):
        data = pvae.data.as_data(data, {"shift": torch.linspace(-1, 1, len(data))})
    settings = {
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "learning_rate": pvae.schedules.one_cycle(1e-2, warm_up=0.3, epochs=EPOCHS),
        "beta": pvae.schedules.linear(0.0, 1.0, epochs=EPOCHS / 2),
        "clip_norm": 3.0,
        "weight_decay": 0.01,
        "validation": 0.2,
        "keep_best": True,
        "seed": 3,
        "progress": False,
        "checkpoint_steps": 3,
        "checkpoint_minutes": None,
        **LEVEL,
    }
    history = pvae.fit(vae, data, checkpoint=folder, resume=resume, **{**settings, **changes})
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
    from pyrovae.training.compiled import Call
    from pyrovae.training.engine import Eager
    from pyrovae.training.optimizer import TorchOptimizer
    from pyrovae.training.traced import Traced
    from pyrovae.training.validation import Evaluation

    forward = {False: (Eager, "backward"), "trace": (Traced, "take"), "compile": (Call, "run")}[LEVEL["compile"]]
    update = (Call, "store") if LEVEL["compile"] == "compile" else (TorchOptimizer, "update")
    return {
        "data": functools.partial(_before, Binarize, "__call__"),
        "forward": functools.partial(_after, *forward),
        "updated": functools.partial(_after, *update),
        "validation": functools.partial(_after, Evaluation, "terms"),
        "half written": _half_written,
        "written": functools.partial(_before, os, "replace"),
        "renamed": functools.partial(_after, os, "replace"),
        "rotated": functools.partial(_after, os, "unlink"),
    }


def split(text):
    moment, count = text.rsplit(":", 1)
    return moment, int(count)


def run_and_die(folder, hidden, moment, count):
    moments()[moment](count)
    train(folder, hidden=hidden)


def fork(folder, hidden, moment, count):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            run_and_die(folder, hidden, moment, count)
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("result")
    parser.add_argument("--hidden", action="store_true")
    parser.add_argument("--level", choices=["trace", "compile"], default=False)
    parser.add_argument("--moments", nargs="*", default=[])
    parser.add_argument("--moment")
    options = parser.parse_args()
    torch.set_num_threads(1)
    LEVEL["compile"] = options.level
    digits()
    if options.moment:
        run_and_die(options.folder, options.hidden, *split(options.moment))
    if options.moments:  # what a first training imports the children then have
        pvae.fit(program(), digits()[:BATCH], epochs=1, seed=0, progress=False, **LEVEL)
    codes = [fork(options.folder, options.hidden, *split(text)) for text in options.moments]
    save_state(options.result, {"codes": codes, **outcome(*train(options.folder, hidden=options.hidden))})


if __name__ == "__main__":
    main()
