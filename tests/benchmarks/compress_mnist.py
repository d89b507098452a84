"""MNIST coded by a VAE: bits per dimension beside gzip, bz2, lzma, PNG and WebP, and the time of training and coding.

`train` trains a VAE in a number of minutes and keeps the run in a folder; `code` codes test rows with it, and brings them back.
Binarized digits (`dynamic`) have a VAE of fully connected networks, the levels 0 to 255 (`uint8`) that of `pyramid.py`.
Needs MNIST under PYROVAE_DATA, constriction and pillow.
Run: python tests/benchmarks/compress_mnist.py train runs/mnist-binary --variant dynamic --minutes 40
     python tests/benchmarks/compress_mnist.py train runs/levels --variant uint8 --minutes 75
     python tests/benchmarks/compress_mnist.py code runs/mnist-binary [--rows 10000]
"""

import argparse
import bz2
import gzip
import io
import lzma
import math
import pathlib
import sys
import time
from dataclasses import replace

import numpy as np
import pyramid
import torch
from PIL import Image

import pyrovae as pvae
from pyrovae.uses import coded_size, compress, decompress

FAST = {
    "dynamic": {"compile": "trace", "batch_size": 256},
    "uint8": {"compile": "compile", "batch_size": 128, "start_at_data": False},
}


def build(options, training):
    """The VAE that is trained on binarized digits, drawn anew for each batch, or on levels."""
    if options.variant == "uint8":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return pyramid.make(widths=options.widths, blocks=options.blocks)
    spec = {"likelihood": "bernoulli", "posterior": "full_normal", "latent_dim": 40, "hidden": (500, 500)}
    return pvae.build_vae((1, 28, 28), **spec, normalization="batch", start=training, seed=0)


def load(run):
    """The VAE of a run, and what was kept of its training."""
    kept = pvae.files.Run.read(run).config
    settings = kept["settings"]
    if settings.get("variant") != "uint8":
        return pvae.load(run), "static", kept["results"]
    return (
        pvae.load(run, into=pyramid.make(widths=settings["widths"], blocks=settings["blocks"])),
        "uint8",
        kept["results"],
    )


def train(options):
    loaded = pvae.data.load("mnist", options.variant)
    vae = load(options.start)[0] if options.start else build(options, loaded.train)
    fast = {"precision": "bf16", "seed": 0, "progress": False, **FAST[options.variant]}
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    begun = time.process_time(), time.perf_counter()

    def spent():
        """The share of the time that is over: CPU time, or the clock where it has an end."""
        cpu, wall = time.process_time() - begun[0], time.perf_counter() - begun[1]
        return max(cpu / (60 * options.minutes), wall / (60 * options.deadline) if options.deadline else 0.0)

    cycle = pvae.schedules.one_cycle(options.rate, warm_up=0.1, steps=1e6)

    def by_time(progress):
        return max(cycle(replace(progress, step=round(1e6 * min(spent(), 1.0)))), 1e-3 * options.rate)

    def tell(history):
        last = history.rows[-1]
        values = [f"{name} {last[name]:.2f}" for name in ("elbo", "validation_elbo", "seconds")]
        print(f"epoch {last['epoch']}: {', '.join(values)}; CPU {time.process_time():.0f} s", flush=True)
        return not options.epochs and spent() >= 1

    folder = f"{options.run}/checkpoints"
    rate = pvae.schedules.one_cycle(options.rate, warm_up=0.1, epochs=options.epochs) if options.epochs else by_time
    given = {"epochs": options.epochs or 1000, "learning_rate": rate, "validation": loaded.validation}
    given |= {"checkpoint": folder, "resume": options.epochs is not None, "checkpoint_minutes": 0.5}
    history = pvae.fit(vae, loaded.train, callbacks=[tell], keep_best=True, **given, **fast)
    results = {"cpu_seconds": round(time.process_time()), "epochs": len(history)}
    torch.backends.mkldnn.conv.fp32_precision = "none"
    settings = {"data": "mnist", "variant": options.variant, "widths": options.widths, "blocks": options.blocks}
    pvae.save(vae, options.run, history=history, data=loaded.train, settings=settings, results=results, overwrite=True)
    test = loaded.test
    found = pvae.elbo(vae, test, num_samples=1, seed=0, progress=False)
    bits = -float(found["elbo"].mean()) / 784 / torch.log(torch.tensor(2.0)).item()
    print(f"{len(test)} test rows: {bits:.4f} bits/dim, {results}", flush=True)


def neighbors(levels, binary):
    """Bits per dimension of general coders and image formats on the same images: 1 bit a pixel where they are binary."""
    packed = np.packbits(levels.reshape(len(levels), -1) > 0, axis=1) if binary else levels.reshape(len(levels), -1)
    coders = {"gzip": gzip.compress, "bz2": bz2.compress, "lzma": lambda b: lzma.compress(b, preset=9)}
    found = {f"{name}, all rows in one": len(coder(packed.tobytes())) for name, coder in coders.items()}
    for form, options in {"PNG": {"optimize": True}, "WebP": {"lossless": True, "quality": 100, "method": 6}}.items():
        sizes = []
        for image in levels[:, 0]:
            picture = Image.fromarray(image * (255 if binary else 1))
            file = io.BytesIO()
            (picture.convert("1") if binary and form == "PNG" else picture).save(file, form, **options)
            sizes.append(file.tell())
        found[f"{form}, each image"] = sum(sizes)
    return {name: 8 * size / levels.size for name, size in found.items()}


def code(options):
    vae, variant, results = load(options.run)
    images = pvae.data.load("mnist", variant).test[: options.rows]
    x = images.x
    dimensions = x.numel()
    start = time.process_time()
    blob = compress(vae, x, seed=0, progress=False)
    middle = time.process_time()
    size = coded_size(blob)
    parts = {"net": size["net"], "with initial bits": size["written"], "the file": size["file"]}
    print(
        f"{len(x)} rows ({variant}), trained for {results.get('cpu_seconds', '?')} CPU seconds:",
        ", ".join(f"{name} {bits / dimensions:.4f}" for name, bits in parts.items()),
        "bits/dim",
        flush=True,
    )
    found = decompress(vae, blob, progress=False)
    end = time.process_time()
    assert torch.equal(found, x)
    rates = [dimensions / (1e6 * seconds) for seconds in (middle - start, end - middle)]
    print(f"every byte came back; {rates[0]:.2f} MB/s in, {rates[1]:.2f} MB/s out, one thread's CPU time", flush=True)
    elbo = float(pvae.elbo(vae, x.float(), num_samples=1, seed=1, progress=False)["elbo"].sum()) / -math.log(2)
    print(f"negative ELBO {elbo / dimensions:.4f} bits/dim", flush=True)
    others = neighbors(images.x.to(torch.uint8).numpy(), variant != "uint8")
    print(", ".join(f"{name} {bits:.4f}" for name, bits in others.items()), "bits/dim")
    model = (pathlib.Path(options.run) / "state.safetensors").stat().st_size
    saved = (min(others.values()) * dimensions - size["file"]) / 8 / len(x)
    print(f"the model has {model} bytes: worth it from {model / saved:.0f} images on, against the best of the others")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=("train", "code"))
    parser.add_argument("run")
    parser.add_argument("--variant", default="dynamic", choices=list(FAST))
    parser.add_argument("--minutes", type=float, default=40, help="of CPU time")
    parser.add_argument("--epochs", type=int, help="instead of a time; a training that was stopped goes on")
    parser.add_argument("--deadline", type=float, help="minutes by the clock, where these end first")
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--start", help="a run whose weights the training goes on from")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--widths", type=int, nargs=2, default=[48, 32], help="channels of the levels' networks")
    parser.add_argument("--blocks", type=int, default=1, help="residual blocks of each")
    options = parser.parse_args()
    {"train": train, "code": code}[options.action](options)


if __name__ == "__main__":
    sys.exit(main())
