"""`pyrovae train FOLDER` without options on 200 colored images, beside PNG.

Run by hand: `python tests/benchmarks/image_folder.py [SIZE ...]` (32 and 64 pixels by default). The images are crops of
scikit-learn's two photographs at several scales, in `build/photos32`; the run is in `build/run32`, whose figure
`reconstructions.png` shows the first test images above what the model makes of them.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROWS, FOLDER = 200, Path("build")


def make(size, folder):
    """Write crops of one to four times the size, made smaller to it, and return the bits of their PNG files for each number."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng, photos = np.random.default_rng(0), load_sample_images().images
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(ROWS):
        photo = photos[number % 2]
        side = int(rng.integers(size, min(4 * size, *photo.shape[:2])))
        top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
        crop = Image.fromarray(photo[top : top + side, left : left + side]).resize((size, size), Image.LANCZOS)
        crop.save(folder / f"{number:03}.png", optimize=True)
    return 8 * sum(path.stat().st_size for path in folder.iterdir()) / (ROWS * 3 * size**2)


def main(sizes):
    for size in sizes:
        photos, run = FOLDER / f"photos{size}", FOLDER / f"run{size}"
        png, began = make(size, photos), time.monotonic()
        words = [sys.executable, "-m", "pyrovae", "train", str(photos), "--out", str(run)]
        subprocess.run(words, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
        config = json.loads((run / "config.json").read_text())
        seconds, found = time.monotonic() - began, config["results"]
        print(
            f"{size} pixels: {found['bits_per_dim']:.2f} bits/dim, PNG {png:.2f}; {config['settings']['epochs']} epochs in "
            f"{found['training_seconds']:.0f} s, {seconds:.0f} s in all",
            flush=True,
        )


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [32, 64])
