"""MNIST image and label as one model, either missing in a part of the training rows: what it knows of one from the other.

A ``SemiSupervisedVAE`` on dynamically binarized images; in half of the training rows image or label is missing. The label of
test images is q(y | x); images of labels are drawn by ``impute`` on rows without an image, and classified by a network that was
trained on all labels, whose own accuracy on test images is printed. The evidence is log p(x, y) of test rows, by importance
sampling from the guide of both, and refined. ``python tests/benchmarks/mnist_image_label.py``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pyro.distributions as dist
import torch

import pyrovae as pvae
from pyrovae.data import as_data

CLASSES = 10


def joined(first: pvae.networks.Network | None, of: int, hidden: tuple[int, ...]) -> pvae.networks.Network:
    """A network of a vector and the label; what comes before the label is computed once for all of them."""
    net = pvae.MLP(of + CLASSES, hidden)
    both = pvae.ConcatCovariates(net, of, covariates={"label": pvae.Embed(CLASSES, CLASSES)})
    return both if first is None else pvae.Chain(first, both)


def joint(latents: int, hidden: int) -> pvae.SemiSupervisedVAE:
    seen = pvae.MLP(784, (hidden,), out_shape=128)
    return pvae.SemiSupervisedVAE(
        labels=pvae.Categories(event_shape=(), num_categories=CLASSES),
        prior=pvae.standard_normal(latents),
        likelihood=pvae.Factorized(dist.Bernoulli, joined(None, latents, (hidden,)), 784),
        classifier=pvae.Categories(pvae.MLP(784, (hidden, 100), dropout=0.2), (), num_categories=CLASSES),
        posterior=pvae.Factorized(dist.Normal, joined(seen, 128, (128,)), latents),
    )


def binarized(rows: dict[str, torch.Tensor], generator: torch.Generator | None) -> dict[str, torch.Tensor]:
    x = rows["x"]
    return {**rows, "x": torch.where(x.isnan(), x, torch.bernoulli(x.nan_to_num(), generator=generator))}


def judge(x: torch.Tensor, labels: torch.Tensor, steps: int) -> torch.nn.Module:
    """A classifier trained on all labels."""
    torch.manual_seed(0)
    layers = (torch.nn.Linear(784, 300), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(300, CLASSES))
    net = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(steps):
        batch = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(torch.bernoulli(x[batch])), labels[batch]).backward()
        optimizer.step()
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    numbers = {"epochs": 12, "latents": 32, "hidden": 300, "rows": 1000, "samples": 1000, "refined": 100, "seed": 0}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--weight", type=float, default=10.0, help="of the classifier's term, for each labelled row")
    parser.add_argument("--folder", type=Path, default=Path("build/mnist_image_label"))
    arguments = parser.parse_args()
    data = pvae.data.load("mnist", "grey")
    train, test = (part.dense().x.float().reshape(len(part), 784) for part in (data.train, data.test))
    generator = torch.Generator().manual_seed(arguments.seed)
    lot = torch.rand(len(train), generator=generator)
    rows = {
        "x": torch.where((lot < 0.25).unsqueeze(1), torch.nan, train),
        "y": torch.where((lot > 0.75), torch.nan, data.train.label.float()),
    }
    torch.manual_seed(arguments.seed)
    vae = joint(arguments.latents, arguments.hidden)
    started = time.process_time()

    def tell(history: pvae.training.History) -> None:
        minutes = (time.process_time() - started) / 60
        print(f"epoch {len(history)}, {minutes:.1f} min of CPU: {history['elbo'][-1]:.2f}", flush=True)

    options = {"checkpoint": arguments.folder, "resume": True, "checkpoint_minutes": 1.0, "progress": False}
    history = pvae.fit(
        vae,
        as_data(rows),
        epochs=arguments.epochs,
        batch_size=200,
        transform=binarized,
        objective=pvae.SupervisedELBO(arguments.weight),
        seed=arguments.seed,
        callbacks=[tell],
        **options,
    )
    print(f"{arguments.epochs} epochs, {history.engine}: {history['elbo'][-1]:.2f} nats per training row", flush=True)
    torch.manual_seed(1)
    x, y = torch.bernoulli(test), data.test.label.long()
    found = vae.classify({"x": x, "y": torch.full((len(x),), torch.nan)}).argmax(-1)
    print(f"label of the image: {float((found == y).float().mean()):.4f} of {len(x)} test rows", flush=True)
    net, some = judge(train, data.train.label.long(), 3000), slice(0, arguments.rows)
    without = {"x": torch.full((arguments.rows, 784), torch.nan), "y": y[some].float()}
    drawn = pvae.impute(vae, without, num_samples=1, seed=0, progress=False).draws
    images = (drawn["x"] if isinstance(drawn, dict) else drawn)[0]
    torch.manual_seed(2)
    latents = {site: value[0] for site, value in vae.encode(without, num_samples=1).items()}
    means = vae.decode(latents)["x"]
    for what, part in (("draws", images), ("means", means), ("test images", x[some])):
        share = float((net(part).argmax(-1) == y[some]).float().mean())
        print(f"image of the label, {what}: {share:.4f} of {arguments.rows} classified as it", flush=True)
    both = {"x": x[some], "y": y[some].float()}
    plain = pvae.log_marginal(vae, both, method="importance", num_samples=arguments.samples, seed=0, progress=False)
    print(
        f"log p(x, y), K = {arguments.samples}: {float(plain.log_marginal.mean()):.3f} over {arguments.rows} rows",
        flush=True,
    )
    few = {name: value[: arguments.refined] for name, value in both.items()}
    better = pvae.log_marginal(vae, few, method="refined", num_samples=arguments.samples, seed=0, progress=False)
    gain = better.log_marginal.values - plain.log_marginal.values[: arguments.refined]
    print(f"refined, {arguments.refined} of these rows: {gain.mean():+.3f} nats beside", flush=True)


if __name__ == "__main__":
    main()
