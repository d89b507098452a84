"""Time and size of a checkpoint of the MNIST default, beside a training step.

    python tests/benchmarks/checkpoint_cost.py

The program is that of ``pyrovae train mnist``; random grey levels stand in for the images, since no number here depends on
them. Each time is the median, with the 90th percentile beside it.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

import pyrovae as pvae
from pyrovae.files import CheckpointStore, load_state
from pyrovae.presets import RECIPES, Spec
from pyrovae.presets.options import options_of
from pyrovae.training.saving import Save

SAVES, STEPS = 20, 200


def times(work, count):
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), statistics.quantiles(seconds, n=10)[-1]


def captured_loop(folder, vae, data, batch_size):
    """The loop that ``fit`` builds, caught at its first checkpoint."""
    caught = []
    original = Save.save
    Save.save = lambda self, loop: caught.append((self, loop))
    try:
        pvae.fit(vae, data, steps=STEPS, batch_size=batch_size, seed=0, checkpoint=folder, progress=False)
    finally:
        Save.save = original
    return caught[0]


def main():
    """Print the table."""
    recipe = RECIPES["mnist"]
    fields = {name: value for name, value in recipe.items() if name in options_of(Spec)}
    x = torch.rand(recipe["batch_size"] * 20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    vae = pvae.build_vae((1, 28, 28), likelihood="bernoulli", seed=0, **fields)
    data = pvae.data.Data(x, transform=pvae.data.Binarize(), variant="dynamic")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        saver, loop = captured_loop(Path(folder) / "run", vae, data, recipe["batch_size"])
        store = CheckpointStore(Path(folder) / "timed", keep=2)
        steps = iter(range(10**6))
        step = median_step(loop)
        save = times(lambda: store.save(saver.tree(loop), next(steps)), SAVES)
        path = store.paths[-1]
        load = times(lambda: load_state(path), SAVES)
        size = path.stat().st_size
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    print(f"{parameters:,} parameters, batch {recipe['batch_size']}, {torch.get_num_threads()} threads, median (90 %)")
    print(f"training step       {1e3 * step[0]:7.2f} ms ({1e3 * step[1]:.2f})")
    print(f"checkpoint written  {1e3 * save[0]:7.2f} ms ({1e3 * save[1]:.2f}), {size / 1e6:.1f} MB")
    print(f"checkpoint read     {1e3 * load[0]:7.2f} ms ({1e3 * load[1]:.2f})")
    print(f"a checkpoint costs  {save[0] / step[0]:7.1f} steps")
    print(
        f"every minute        {100 * save[0] / 60:7.3f} % of the time (at the 90th percentile {100 * save[1] / 60:.3f} %)"
    )


def median_step(loop):
    loop.state.step = 0
    return times(lambda: loop.engine.run(loop.state, loop.plan(1), loop.rows), STEPS)


if __name__ == "__main__":
    main()
