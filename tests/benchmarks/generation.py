"""Generated images of a VAE by its prior and by a mixture and a flow on its latents, of a plain autoencoder and a small GAN.

Beside them stand training rows, the floor. The features are the last layer of a classifier trained here on their labels. Run:
python tests/benchmarks/generation.py [--data digits|mnist] [--epochs 150]
Images of MNIST are grey (MNIST under PYROVAE_DATA), and a VAE draws their means; counts of digits are drawn.
"""

import argparse

import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softplus

import pyrovae as pvae
from pyrovae.conditionals import GaussianMixture, Point, SplineFlow
from pyrovae.uses import fit_prior, generation_quality

SIZES = {
    "digits": {"train": 900, "test": 400, "top": 16, "hidden": (128, 128), "latent": 10, "epochs": 150},
    "mnist": {"train": 10_000, "test": 2000, "top": 1, "hidden": (400, 400), "latent": 16, "epochs": 15},
}
LIKELIHOODS = {"digits": {"likelihood": "beta_binomial", "levels": 17}, "mnist": {"likelihood": "normal"}}


def rows_of(name):
    """Rows to train on with their labels, to compare with, and others with their labels."""
    size = SIZES[name]
    data = pvae.data.load(name, {"digits": "counts", "mnist": "grey"}[name], seed=0)
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(0))
    x, labels = data.x[order].float(), data.label[order]
    cuts = [slice(0, size["train"]), slice(size["train"], size["train"] + size["test"])]
    cuts.append(slice(cuts[1].stop, cuts[1].stop + size["test"]))
    return [(x[cut], labels[cut]) for cut in cuts]


def classifier(x, labels, test, test_labels, top):
    """The features of a small network that tells digits apart, and their name with its accuracy."""
    torch.manual_seed(0)
    size = x[0].numel()
    net = nn.Sequential(nn.Flatten(), nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3, weight_decay=1e-5)
    for _ in range(max(6, 54_000 // len(x))):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            cross_entropy(net(x[batch] / top), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = float((net(test / top).argmax(1) == test_labels).double().mean())
    return lambda rows: net[:5](rows / top), f"a classifier of digits, {100 * accuracy:.1f} % accurate"


def priors(latent):
    """What is fitted to latents."""
    torch.manual_seed(0)
    yield "mixture", GaussianMixture(event_shape=latent, num_components=30)
    yield "flow", SplineFlow(event_shape=latent)


def autoencoder(x, epochs, size):
    torch.manual_seed(0)
    latent, hidden = size["latent"], size["hidden"]
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(latent, hidden), x.shape[1:], scale=1.0)
    model = pvae.VAE(pvae.standard_normal(latent), likelihood, Point(pvae.MLP(x.shape[1:], hidden), latent))
    pvae.fit(model, x, epochs=epochs, beta=0.0, seed=0, progress=False)
    return model


def gan_draws(x, epochs, count, size):
    torch.manual_seed(0)
    latent, width, pixels = size["latent"], size["hidden"][0], x[0].numel()
    sizes = ((latent, width), (width, width))
    layers = [part for pair in sizes for part in (nn.Linear(*pair), nn.BatchNorm1d(width), nn.ReLU())]
    generator = nn.Sequential(*layers, nn.Linear(width, pixels), nn.Sigmoid())
    layers = [part for n in (pixels, width) for part in (nn.Linear(n, width), nn.LeakyReLU(0.2), nn.Dropout(0.3))]
    critic = nn.Sequential(*layers, nn.Linear(width, 1))
    optimizers = [torch.optim.Adam(net.parameters(), lr=5e-4, betas=(0.5, 0.999)) for net in (generator, critic)]
    rows = x.flatten(1) / size["top"]
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(60):
            made = generator(torch.randn(len(batch), latent))
            optimizers[1].zero_grad()
            (softplus(-critic(rows[batch])) + softplus(critic(made.detach()))).mean().backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            softplus(-critic(made)).mean().backward()
            optimizers[0].step()
    generator.eval()
    with torch.no_grad():
        return (size["top"] * generator(torch.randn(count, latent))).reshape(-1, *x.shape[1:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", choices=list(SIZES), default="digits")
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args()
    size, is_drawn = SIZES[options.data], options.data == "digits"
    epochs, count = options.epochs or size["epochs"], size["test"]
    (train, labels), (test, _), (other, other_labels) = rows_of(options.data)
    features, name = classifier(train, labels, other, other_labels, size["top"])
    model = pvae.build_vae(train, **LIKELIHOODS[options.data], latent_dim=size["latent"], hidden=size["hidden"], seed=0)
    pvae.fit(model, train, epochs=epochs, seed=0, progress=False)
    plain = autoencoder(train, epochs, size)

    def draws():
        torch.manual_seed(0)

        def sample(vae):
            is_point = isinstance(vae.posterior, Point)  # an autoencoder has no noise
            return vae.decode(vae.prior().sample((count,)), draw=is_drawn and not is_point)

        yield "VAE, its prior", sample(model)
        for who, trained in (("VAE", model), ("autoencoder", plain)):
            for kind, prior in priors(size["latent"]):
                fitted = fit_prior(trained, train, prior=prior, epochs=3 * epochs, seed=0, progress=False)
                yield f"{who}, {kind} on latents", sample(fitted)
        yield "GAN", gan_draws(train, 4 * epochs, count, size)
        yield "other test rows", other

    print(f"features: {name}; {count} draws against {count} test rows, {len(train)} rows trained each model")
    for number, (who, rows) in enumerate(draws()):
        found = generation_quality(rows.clamp(0, size["top"]), test, train, features=features, name=name, seed=0)
        if not number:
            print(f"{'':34}" + "".join(f"{metric:>16}" for metric in found["metric"].values))
            floors = zip(found["floor"].values, found["floor_error"].values, strict=True)
            print(f"{'training rows (the floor)':34}" + "".join(f"{f'{v:.3f} ± {e:.3f}':>16}" for v, e in floors))
        numbers = zip(found["value"].values, found["error"].values, strict=True)
        print(f"{who:34}" + "".join(f"{f'{v:.3f} ± {e:.3f}':>16}" for v, e in numbers), flush=True)


if __name__ == "__main__":
    main()
