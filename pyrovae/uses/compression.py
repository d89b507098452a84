"""Lossless compression: rows of integers as a file of about as many bits as the program's negative ELBO."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import as_data
from pyrovae.errors import check_integer, refusal
from pyrovae.missing import rows_text
from pyrovae.programs.rows import MAX_BYTES, bar
from pyrovae.uses.bits_back import Chain

MAGIC = b"pyrovae\x01"


def compress(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    latent_bits: int = 12,
    batch_size: int = 64,
    bit_swap: bool | None = None,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> bytes:
    r"""Rows of integers as bytes, by bits back with asymmetric numeral systems; :func:`decompress` gives the rows back.

    The latents are cut into :math:`2^b` bins of equal prior mass. Each row takes its latents' bins Q from the bits that are
    there already, then codes itself and the bins, so that the file grows by

    .. math:: -\log_2 p(x \mid z) - \log_2 P(z) + \log_2 Q(z \mid x) \text{ bits,}

    on average the negative ELBO under the binned posterior. The first rows take bits that are there for nothing; later ones
    those of the rows before. Rows are coded some at a time, few at first, so that these initial bits are few.

    Several levels of latents are coded one by one (Bit-Swap) where they are a Markov chain that the guide draws from the data
    upwards: bins of a level are taken once those of the level below it, or the data, have made room for them, so that the
    initial bits are those of one level. Bins of lower levels have equal mass under the normal of their moments in the model.

    Args:
        program: latents of each row, with independent entries in model and guide, or normal (with any covariance), the first
            in the model with independent entries; one data site of integers, each coded by its own distribution, which may
            depend on those before it (the channels of a logistic mixture, the tokens of a sentence).
        data: N rows without missing entries.
        covariates: for each name, N rows; :func:`decompress` needs the same.
        latent_bits: b. Bins should be narrower than the posterior; more cost time, not bits.
        batch_size: rows at a time at most. More are faster, and take more initial bits.
        bit_swap: code levels one by one; by default where they are such a chain. Else all bins of a row are taken at first.
        seed: of the initial bits; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        The file: :func:`coded_size` tells its bits. It can be read where the same versions compute the same floating point
        numbers, with the same number of threads.

    Raises:
        ImportError: constriction is not installed.
        ValueError: missing entries, values outside the likelihood's support, or a program that cannot be coded, by name.

    Reference: Townsend et al. 2019, arXiv:1901.04866; Kingma, Abbeel & Ho 2019, arXiv:1905.06845 (Bit-Swap); the coder is
    constriction, Bamler 2022, arXiv:2201.01741.

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="poisson", latent_dim=2, hidden=(8,), seed=0)
    >>> x = torch.poisson(torch.ones(20, 5))
    >>> bool((decompress(vae, compress(vae, x)) == x).all())
    True
    """
    check_integer("latent_bits", latent_bits, 1, 20)
    check_integer("batch_size", batch_size)
    x = as_data(data, covariates).dense().x
    if not isinstance(x, Tensor):
        raise refusal("several data sites cannot be coded: give the rows as one tensor", "data")
    if x.is_floating_point() and x.isnan().any():
        raise refusal("missing entries cannot be coded: fill them first, as by pyrovae.impute", "data")
    x = (
        x + 0.0 if x.is_floating_point() else x
    ).contiguous()  # one zero, not two; and in the order of a decoder's rows
    header = {
        "dtype": str(x.dtype).removeprefix("torch."),
        "shape": list(x.shape),
        "latent_bits": latent_bits,
        "batch_size": batch_size,
        "bit_swap": bit_swap,
        "top": int(min(max(float(x.max()), 0.0), 2.0**53)),
    }
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    chain = Chain(program, data, covariates, header, max_bytes, seed)
    wrong = (x < 0) | (x != x.round()) | x.isinf() if x.is_floating_point() else x < 0
    if wrong.any():
        message = f"expected the integers 0, 1, 2, ..., got {float(x[wrong][0]):g} in {rows_text(wrong)}"
        raise refusal(message, "data")
    for rows in bar(chain.blocks(), "compress", progress):
        chain.push(chain.batch(rows), x[rows])
    words = chain.stack.words()
    chain.header |= {"rows": _digest(x), "initial_words": chain.stack.initial, "words": len(words)}
    text = json.dumps(chain.header | chain.identity(), separators=(",", ":")).encode()
    body = struct.pack("<I", len(text)) + text + words.astype("<u4").tobytes()
    return MAGIC + hashlib.sha256(body).digest() + body


def decompress(
    program: Any,
    data: bytes,
    covariates: Mapping[str, Any] | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> Tensor:
    """The rows of a file that :func:`compress` wrote with the same program.

    Args:
        program: the program that wrote the file.
        data: the file.
        covariates: those of the rows.
        max_bytes: refuse what needs more memory.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        A tensor of the rows, in their shape and dtype.

    Raises:
        ImportError: constriction is not installed.
        ValueError: another kind of file, a truncated or changed one, another program, other covariates, or a machine that
            computes other floating point numbers.
    """
    header, words = _opened(data)
    x = torch.zeros(header["shape"], dtype=getattr(torch, header["dtype"]))
    chain = Chain(program, x, covariates, header, max_bytes, words)
    own = chain.identity()
    if own["model"] != header["model"]:
        raise refusal("the file was written by another program or other weights: take those that wrote it", "program")
    if own["covariates"] != header["covariates"]:
        raise refusal(
            "the covariates are not those of the rows in the file: give the same, in the same order", "covariates"
        )
    differing = [f"{name} {header[name]} there and {own[name]} here" for name in own if own[name] != header.get(name)]
    if own["canary"] != header["canary"]:
        differing = [text for text in differing if not text.startswith("canary")] or ["another processor"]
        raise refusal(
            "the program computes other floating point numbers here than where the file was written, so that it cannot be "
            f"read: {', '.join(differing)}",
            "data",
        )
    for rows in bar(list(reversed(chain.blocks())), "decompress", progress):
        x[rows] = chain.pop(chain.batch(rows)).reshape(x[rows].shape).to(x.dtype)
    if _digest(x) != header["rows"]:
        raise refusal("the rows that were read are not those that were written: nothing is returned", "data")
    return x


def coded_size(data: bytes) -> dict[str, int]:
    """The bits of a file of :func:`compress`: ``file``, ``written`` (without the header), ``initial``, ``net``, and its sizes.

    ``net`` is what was written less the initial bits, which hold nothing.

    Args:
        data: the file.

    Raises:
        ValueError: another kind of file, or a truncated or changed one.
    """
    header, words = _opened(data)
    written, initial = 32 * len(words), 32 * header["initial_words"]
    sizes = {"rows": header["shape"][0], "dimensions": math.prod(header["shape"][1:])}
    return {"file": 8 * len(data), "written": written, "initial": initial, "net": written - initial, **sizes}


def _digest(rows: Tensor) -> str:
    return hashlib.sha256(rows.view(torch.uint8).numpy().tobytes()).hexdigest()


def _opened(data: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """The header and the words of a file that is whole."""
    if not isinstance(data, bytes | bytearray) or data[: len(MAGIC)] != MAGIC:
        raise refusal("expected the bytes of a file that pyrovae.uses.compress wrote", "data")
    begin = len(MAGIC) + 32
    body = bytes(data[begin:])
    if hashlib.sha256(body).digest() != data[len(MAGIC) : begin]:
        raise refusal("the file is truncated or was changed: its checksum is wrong", "data")
    (size,) = struct.unpack_from("<I", body)
    return json.loads(body[4 : 4 + size]), np.frombuffer(body[4 + size :], dtype="<u4").astype(np.uint32)
