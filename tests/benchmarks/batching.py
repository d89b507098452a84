"""Microseconds a batch of 128 x 784 from memory, beside a bare `index_select` and a torch loader.

Run by hand: ``python tests/benchmarks/batching.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import scipy.sparse
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyrovae.data import Binarize, Data, as_data, batches, loader_batches

ROWS, SIZE = 60_000, 128


def bare(x: torch.Tensor) -> None:
    for index in torch.randperm(ROWS).split(SIZE):
        x.index_select(0, index)


def exhaust(loader) -> Callable[[], None]:
    def run() -> None:
        for _ in loader:
            pass

    return run


def microseconds_a_batch(run: Callable[[], None], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best / -(-ROWS // SIZE) * 1e6


def main() -> None:
    x = torch.rand(ROWS, 784, generator=torch.Generator().manual_seed(0))
    x[x < 0.8] = 0.0
    sparse = scipy.sparse.csr_array(x.numpy())
    cases = {
        "index_select alone": (lambda: bare(x), 9),
        "batches": (exhaust(batches(x, SIZE)), 9),
        "batches, unshuffled": (exhaust(batches(x, SIZE, shuffle=False)), 9),
        "batches, with covariates": (exhaust(batches(as_data(x, {"label": torch.arange(ROWS)}), SIZE)), 9),
        "batches, uint8 to float32": (exhaust(batches((x * 255).byte(), SIZE, dtype=torch.float32)), 9),
        "batches, binarized afresh": (exhaust(batches(Data(x, transform=Binarize()), SIZE)), 5),
        "batches, CSR with 20 % filled": (exhaust(batches(sparse, SIZE)), 3),
        "DataLoader": (exhaust(DataLoader(TensorDataset(x), SIZE, shuffle=True)), 2),
        "loader_batches": (exhaust(loader_batches(TensorDataset(x), SIZE)), 2),
    }
    for name, (run, repeats) in cases.items():
        print(f"{name:32s}{microseconds_a_batch(run, repeats):8.1f}")


if __name__ == "__main__":
    main()
