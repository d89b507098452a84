"""Draws overview.png, the README's figure: python .github/images/overview.py (about a minute)."""

import pathlib

import torch
from matplotlib.figure import Figure

import pyrovae as pvae


def main() -> None:
    """Train on the embedded digits and draw what came of it."""
    digits = pvae.data.load("digits")
    start = digits.train.x
    vae = pvae.build_vae((1, 8, 8), likelihood="binomial", levels=17, hidden=(128, 128), start=start, seed=0)
    pvae.fit(vae, digits.train, epochs=60, batch_size=64, learning_rate=3e-3, seed=0)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    grid = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    left = grid[0].subplots(2, 1, height_ratios=(1, 2.6))
    rows = digits.test[:12]
    pvae.plots.plot_reconstructions(rows.x, vae.reconstruct(rows.x), num_images=12, vmin=0, vmax=16, ax=left[0])
    torch.manual_seed(0)
    samples = vae.decode(vae.prior().sample((72,)))
    pvae.plots.plot_samples(samples, num_images=72, num_columns=12, vmin=0, vmax=16, ax=left[1])
    left[0].set_title("held-out digits and their reconstructions (means)", fontsize=10)
    left[1].set_title("draws from the prior, decoded (means)", fontsize=10)
    right = grid[1].subplots()
    pvae.plots.plot_latent(vae.encode(digits.test.x), digits.test.label, title="digit", ax=right)
    right.set_title("held-out digits by their ten latents, neighbors together", fontsize=10, loc="left")
    figure.savefig(pathlib.Path(__file__).with_name("overview.png"), dpi=110)


if __name__ == "__main__":
    main()
