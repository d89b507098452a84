"""MNIST coded by a VAE: bits per dimension beside gzip, bz2, lzma, PNG and WebP, and the time of training and coding.

`train` trains a VAE in a number of minutes and keeps the run in a folder; `code` codes test rows with it, and brings them back.
Needs MNIST under PYROVAE_DATA, constriction and pillow.
Run: python tests/benchmarks/compress_mnist.py train runs/mnist-binary --variant dynamic --minutes 40
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
import torch
from PIL import Image
from torch.nn.functional import pixel_unshuffle

import pyrovae as pvae
from pyrovae.uses import coded_size, compress, decompress

SPECS = {
    "dynamic": {"likelihood": "bernoulli", "posterior": "full_normal", "hidden": (500, 500)},
    "uint8": {
        "likelihood": "logistic_mixture",
        "levels": 256,
        "components": 4,
        "hidden": (500, 500),
        "decoder_hidden": (500, 200),
    },
}
"""What is trained on binarized digits, drawn anew for each batch, and on the levels 0 to 255."""
FAST = {
    "dynamic": {"compile": "trace", "batch_size": 256},
    "uint8": {"compile": "trace", "batch_size": 256, "start_at_data": False},
}
BLOCK = {"dynamic": 1, "uint8": 2}
"""Levels are arranged in blocks of so many pixels in height and width, whose pixels are channels: the mixture couples these."""


def arranged(rows, block):
    """Data whose images have blocks of pixels as channels."""
    return rows if block == 1 else replace(rows, x=pixel_unshuffle(rows.x, block))


def train(options):
    loaded = pvae.data.load("mnist", options.variant)
    parts = (loaded.train, loaded.validation, loaded.test)
    training, validation, test = (arranged(part, BLOCK[options.variant]) for part in parts)
    spec = {"latent_dim": 40, "normalization": "batch", **SPECS[options.variant]}
    fast = {"precision": "bf16", "seed": 0, "progress": False, **FAST[options.variant]}

    if options.start:
        vae = pvae.load(options.start)
    else:
        vae = pvae.build_vae(tuple(training.event_shape), **spec, start=training, seed=0)
        if options.variant == "uint8":
            vae.likelihood.initialize(training.x[:100].float(), steps=60)
    begun = time.process_time(), time.perf_counter()

    def spent():
        """The share of the time that is over: CPU time, or the clock where it has an end."""
        cpu, wall = time.process_time() - begun[0], time.perf_counter() - begun[1]
        return max(cpu / (60 * options.minutes), wall / (60 * options.deadline) if options.deadline else 0.0)

    cycle = pvae.schedules.one_cycle(options.rate, warm_up=0.1, steps=1e6)

    def rate(progress):
        return max(cycle(replace(progress, step=round(1e6 * min(spent(), 1.0)))), 1e-3 * options.rate)

    def tell(history):
        last = history.rows[-1]
        values = [f"{name} {last[name]:.2f}" for name in ("elbo", "validation_elbo", "seconds")]
        print(f"epoch {last['epoch']}: {', '.join(values)}; CPU {time.process_time():.0f} s", flush=True)
        return spent() >= 1

    folder = f"{options.run}/checkpoints"
    given = {"epochs": 1000, "learning_rate": rate, "validation": validation, "checkpoint": folder}
    history = pvae.fit(vae, training, callbacks=[tell], keep_best=True, **given, **fast)
    results = {"cpu_seconds": round(time.process_time()), "epochs": len(history)}
    settings = {"data": "mnist"}
    pvae.save(vae, options.run, history=history, data=training, settings=settings, results=results, overwrite=True)
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
    vae = pvae.load(options.run)
    kept = pvae.files.Run.read(options.run).config
    variant = "uint8" if vae.spec.levels else "static"
    images = pvae.data.load("mnist", variant).test[: options.rows]
    x = arranged(images, 28 // vae.spec.event_shape[-1]).x
    dimensions = x.numel()
    start = time.process_time()
    blob = compress(vae, x, seed=0, progress=False)
    middle = time.process_time()
    found = decompress(vae, blob, progress=False)
    end = time.process_time()
    assert torch.equal(found, x)
    size = coded_size(blob)
    elbo = float(pvae.elbo(vae, x.float(), num_samples=4, seed=1, progress=False)["elbo"].sum()) / -math.log(2)
    print(
        f"{len(x)} rows ({variant}), every byte came back; trained for {kept['results'].get('cpu_seconds', '?')} CPU seconds"
    )
    parts = {"net": size["net"], "with initial bits": size["written"], "the file": size["file"], "negative ELBO": elbo}
    print(", ".join(f"{name} {bits / dimensions:.4f}" for name, bits in parts.items()), "bits/dim")
    rates = [dimensions / (1e6 * seconds) for seconds in (middle - start, end - middle)]
    print(f"{rates[0]:.2f} MB/s in, {rates[1]:.2f} MB/s out, a byte an entry, of one thread's CPU time")
    others = neighbors(images.x.to(torch.uint8).numpy(), variant != "uint8")
    print(", ".join(f"{name} {bits:.4f}" for name, bits in others.items()), "bits/dim")
    model = (pathlib.Path(options.run) / "state.safetensors").stat().st_size
    saved = (min(others.values()) * dimensions - size["file"]) / 8 / len(x)
    print(f"the model has {model} bytes: worth it from {model / saved:.0f} images on, against the best of the others")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=("train", "code"))
    parser.add_argument("run")
    parser.add_argument("--variant", default="dynamic", choices=list(SPECS))
    parser.add_argument("--minutes", type=float, default=40, help="of CPU time")
    parser.add_argument("--deadline", type=float, help="minutes by the clock, where these end first")
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--start", help="a run whose weights the training goes on from")
    parser.add_argument("--rows", type=int)
    options = parser.parse_args()
    {"train": train, "code": code}[options.action](options)


if __name__ == "__main__":
    sys.exit(main())
