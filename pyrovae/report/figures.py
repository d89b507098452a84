"""The figures of a trained VAE: for its folder, and inline for its report."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from pyrovae import plots
from pyrovae.data import Data
from pyrovae.graphs import VAE
from pyrovae.report.codes import encoded, reconstructed
from pyrovae.report.html import Html, element

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATENT_ROWS, IMAGE_ROWS, SAMPLES = 2000, 10, 64
_INK = "#010203"
"""A colour that no figure has, to be found again in its text."""
_LOOK = {
    "font.size": 11.0,
    "font.sans-serif": ["DejaVu Sans"],
    "svg.fonttype": "none",
    "svg.hashsalt": "pyrovae",
    "image.interpolation": "none",
    **{key: (_INK if ink == plots.DARK["text.color"] else "none") for key, ink in plots.DARK.items()},
}
_SCALE = 1.22
"""Pixels of the page for a point of a drawing, at most: letters of 13 pixels."""
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


class Picture(NamedTuple):
    """A figure to be drawn.

    Attributes:
        title: its heading.
        draw: draws it, and returns axes.
        caption: what it shows.
        alt: the same for readers who cannot see it.
    """

    title: str
    draw: Callable[[], Any]
    caption: str
    alt: str


def draw_figures(
    vae: VAE, data: Data, history: Mapping[str, Any], best_epoch: int | None, seed: int
) -> dict[str, Figure]:
    """What a trained VAE looks like on held-out rows: a matplotlib figure for each name.

    Args:
        vae: the VAE.
        data: the held-out rows.
        history: the columns of its training.
        best_epoch: the epoch whose weights were kept.
        seed: of the draws.
    """
    pictures = {"history": history_picture(history, best_epoch), **vae_pictures(vae, data, seed)}
    return {name: np.ravel(picture.draw())[0].figure for name, picture in pictures.items()}


def history_picture(history: Mapping[str, Any], best_epoch: int | None = None) -> Picture:
    """The curves of training.

    Args:
        history: its columns.
        best_epoch: the epoch whose weights were kept.
    """
    return Picture(
        "Training curves",
        lambda: plots.plot_history(history, best_epoch=best_epoch),
        "ELBO, its two terms and beta by epoch, in nats per datum at beta 1.",
        f"Lines of the ELBO, reconstruction, KL and beta over {len(history['epoch'])} epochs; {_ends(history)}",
    )


def _ends(history: Mapping[str, Any]) -> str:
    said = []
    for name, words in (("elbo", "training ELBO"), ("validation_elbo", "validation ELBO")):
        known = [value for value in history.get(name, ()) if value is not None]
        if known:
            said.append(f"the {words} goes from {known[0]:.1f} to {known[-1]:.1f} nats")
    return ", ".join(said) + "."


def vae_pictures(vae: VAE, data: Data, seed: int) -> dict[str, Picture]:
    """What the VAE draws, reconstructs and encodes, by name.

    Args:
        vae: the VAE.
        data: held-out rows.
        seed: of the draws.
    """
    return {**(_image_pictures(vae, data, seed) if _is_image(data) else {}), **_latent_pictures(vae, data)}


def _image_pictures(vae: VAE, data: Data, seed: int) -> dict[str, Picture]:
    rows = data[:IMAGE_ROWS].dense()
    top = float(data[:1000].dense().x.nan_to_num().max())
    pictures = {
        "reconstructions": Picture(
            "Reconstructions",
            lambda: plots.plot_reconstructions(rows.x, reconstructed(vae, rows.x), vmin=0, vmax=top),
            f"The first {len(rows)} test rows above what the VAE makes of their posterior means.",
            f"Two rows of {len(rows)} images: test rows, and their reconstructions below them.",
        ),
        "samples": Picture(
            "Prior samples",
            lambda: plots.plot_samples(_prior_means(vae, seed), vmin=0, vmax=top),
            f"Means of p(x | z) at {SAMPLES} draws of z from the prior.",
            f"A grid of {SAMPLES} images that the model draws from its prior.",
        ),
    }
    if _latent_dim(vae, data) == 2:
        pictures["manifold"] = Picture(
            "Manifold",
            lambda: plots.plot_manifold(vae.decode, vmin=0, vmax=top),
            "Means of p(x | z) on a grid of the two latent dimensions.",
            "A grid of decoded images over the two latent dimensions.",
        )
    return pictures


def _prior_means(vae: VAE, seed: int) -> torch.Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return vae.decode(vae.prior().sample((SAMPLES,)))


def _latent_pictures(vae: VAE, data: Data) -> dict[str, Picture]:
    dimensions = _latent_dim(vae, data)
    if dimensions < 2:
        return {}
    rows = data[:LATENT_ROWS].dense()
    where = "" if dimensions == 2 else f", the two main components of {dimensions} dimensions"
    colored = "" if rows.label is None else ", coloured by label"
    words = f"Posterior means of {len(rows):,} test rows{where}{colored}."
    return {
        "latent": Picture(
            "Latent space",
            lambda: plots.plot_latent(encoded(vae, rows.x), rows.label, title="label"),
            words,
            f"Scatter plot. {words}",
        )
    }


def _latent_dim(vae: VAE, data: Data) -> int:
    return encoded(vae, data[:1].dense().x).reshape(1, -1).shape[1]


def _is_image(data: Data) -> bool:
    return len(data.event_shape) == 3 and data.event_shape[0] in (1, 3)


def inline(name: str, picture: Picture) -> Html:
    """A figure as SVG inside the page, its ink the page's own, so that it is legible by day and by night.

    Args:
        name: unique on the page.
        picture: what to draw.
    """
    import matplotlib

    with matplotlib.rc_context(_LOOK):  # type: ignore[arg-type]
        drawn, file = np.ravel(picture.draw())[0].figure, io.StringIO()
        drawn.savefig(file, format="svg", bbox_inches="tight", pad_inches=0.05, metadata=_NO_METADATA)
    drawing = Html(_adopted(file.getvalue(), name, picture.alt))
    caption = element("figcaption", element("b", picture.title), " ", picture.caption)
    return element("figure", drawing, caption, class_="picture", id=name)


def _adopted(svg: str, name: str, alt: str) -> str:
    """An SVG file as an element of a page: without prologue, with names and colours that belong to the page."""
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    opening, rest = body.split(">", 1)
    box = re.search(r'viewBox="([-\d. ]+)"', opening)
    if box is None:
        raise ValueError("expected a drawing with a viewBox")
    width = round(_SCALE * float(box[1].split()[2]))
    rest = re.sub(r'\bid="', f'id="{name}-', rest)
    rest = re.sub(r'href="#', f'href="#{name}-', rest).replace("url(#", f"url(#{name}-").replace("xlink:href", "href")
    rest = re.sub(r"font-family: [^;\"]*;?", "", rest).replace(_INK, "currentColor")
    attributes = {"viewBox": box[1], "role": "img", "aria-label": alt, "style": f"max-width:{width}px"}
    return element("svg", Html(rest.removesuffix("</svg>\n").removesuffix("</svg>")), **attributes)
