"""Rows at the door of a table's program: raw frames are coded as the program codes them, by names and not by places."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import pyrovae as pvae

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "grade": RNG.integers(3, 8, 60),  # codes 0 to 4 stand for 3 to 7
        "color": RNG.choice(["red", "blue", "green"], 60),
        "share": RNG.random(60),
        "weight": RNG.normal(70.0, 8.0, 60),
    }
)
KINDS = {"share": "bounded:0:1"}
DATA = pvae.data.as_data(FRAME, kinds=KINDS)


@pytest.fixture(scope="module")
def vae():
    return pvae.build_vae(DATA, latent_dim=2, hidden=(8,), seed=0)


@pytest.mark.parametrize(
    "rows",
    [
        FRAME,
        FRAME[["color", "weight", "grade", "share"]],
        pvae.data.as_data(FRAME[["share", "weight", "color", "grade"]], kinds=KINDS),
        DATA.x,
    ],
    ids=["frame", "other order", "data in another order", "codes"],
)
def test_every_door_takes_raw_rows(vae, rows):
    torch.testing.assert_close(vae.encode(rows), vae.encode(DATA), rtol=0, atol=0)
    options = {"method": "importance", "num_samples": 5, "seed": 0, "progress": False}
    found = [pvae.log_marginal(vae, x, **options)["log_marginal"].values for x in (rows, DATA)]
    np.testing.assert_array_equal(*found)


def test_text_in_an_order_is_read_again_in_that_order():
    sizes = pd.DataFrame({"size": ["S", "L", "M", "S"] * 10, "n": [0, 3, 1, 2] * 10})
    data = pvae.data.as_data(sizes, kinds={"size": "ordinal:S:M:L", "n": "count"})
    vae = pvae.build_vae(data, latent_dim=1, hidden=(4,), seed=0)
    for rows in (sizes, sizes[["n", "size"]], sizes[sizes["size"] != "M"]):
        torch.testing.assert_close(vae.encode(rows), vae.encode(data)[rows.index.to_numpy()], rtol=0, atol=0)
    assert torch.equal(data.matched(sizes.iloc[:, ::-1]).x, data.x)
    for change, words in (
        ({"size": "XL"}, "each level of 'size' once in ordinal:S:M:L, got 'XL' in row 2"),
        ({"n": -1}, "'n' holds -1 in row 2, which a column of kind count cannot"),
        ({"n": 2.5}, "'n' holds 2.5 in row 2, which a column of kind count cannot"),
    ):
        wrong = sizes.head(5).astype(object)
        wrong.loc[2, list(change)] = list(change.values())
        with pytest.raises(ValueError, match=words):
            vae.encode(wrong.infer_objects())


def test_a_part_of_the_levels_keeps_their_codes(vae):
    some = FRAME[(FRAME.grade < 6) & (FRAME.color != "blue")]
    torch.testing.assert_close(vae.encode(some), vae.encode(DATA[some.index.to_numpy()]), rtol=0, atol=0)
    unnamed = pvae.data.as_data(FRAME[["grade"]])  # numbers that are the levels themselves
    assert unnamed.x[0, 0] == FRAME.grade[0]
    with pytest.raises(ValueError, match="'grade' has the level '9' in row 1, expected one of '3', '4', '5', '6', '7'"):
        vae.encode(FRAME.assign(grade=[4, 9] * 30))
    with pytest.raises(ValueError, match="to have the same names, each once, got 3 for 4: lacking 'color'"):
        vae.encode(pvae.data.as_data(FRAME[["grade", "share", "weight"]]))


def test_training_on_a_frame_is_training_on_its_data():
    found = []
    for rows in (FRAME, DATA):
        vae = pvae.build_vae(DATA, latent_dim=2, hidden=(8,), seed=0)
        pvae.fit(vae, rows, epochs=2, validation=FRAME[::-1], seed=0, progress=False)
        found.append(vae.encode(DATA))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_covariates_with_the_rows_are_kept():
    frame = FRAME.assign(site=RNG.choice(["a", "b"], 60))
    data = pvae.data.as_data(frame, ["site"], kinds=KINDS)
    vae = pvae.build_vae(data, latent_dim=2, hidden=(8,), seed=0)
    other = pvae.data.as_data(frame[["site", "weight", "color", "share", "grade"]], ["site"], kinds=KINDS)
    torch.testing.assert_close(vae.encode(other), vae.encode(data), rtol=0, atol=0)
    torch.testing.assert_close(vae.encode(FRAME, data.covariates), vae.encode(data), rtol=0, atol=0)
