"""What networks refuse, and the remedy they name."""

from functools import partial

import pyro
import pytest
import torch
from network_cases import backbone
from torch import nn

from pyrovae.networks import (
    GRU,
    MLP,
    BatchAxes,
    Chain,
    ConcatCovariates,
    ConvDecoder,
    ConvEncoder,
    Embed,
    FiLM,
    Network,
    Transformer,
    check_covariates,
)
from pyrovae.networks.trunk import Headed

LABEL = {"label": 10}
CONSTRUCTION = {
    "text as a shape": (lambda: MLP("784", (8,)), TypeError, r"in_shape must be .*got '784'; write in_shape="),
    "a float as a shape": (lambda: MLP(784.0, (8,)), TypeError, r"in_shape must be .*got 784.0"),
    "floats in a shape": (lambda: MLP(784, (8.0,)), TypeError, r"hidden must be .*got \(8.0,\)"),
    "an empty axis": (lambda: MLP(784, (0,)), ValueError, r"hidden must have axes of at least 1, got \(0,\)"),
    "a negative axis": (lambda: MLP(-1, (8,)), ValueError, r"in_shape must have axes of at least 1, got -1"),
    "an empty output": (lambda: MLP(3, (8,)).close(0), ValueError, r"out_shape must have axes of at least 1, got 0"),
    "an activation made already": (
        lambda: MLP(3, (8,), activation=nn.SiLU()),
        TypeError,
        r"activation= expected a module's class, got SiLU\(\): write a class such as activation=nn.SiLU",
    ),
    "an activation's name": (lambda: MLP(3, (8,), activation="relu"), TypeError, r"activation= .*got 'relu'"),
    "a function": (lambda: MLP(3, (8,), activation=torch.tanh), TypeError, r"activation= .*write a class such as"),
    "a factory of numbers": (lambda: MLP(3, (8,), activation=float), TypeError, r"made a float: write a class"),
    "a normalization's name": (
        lambda: MLP(3, (8,), normalization="batch"),
        TypeError,
        r"got 'batch': write nn.LayerNorm",
    ),
    "a normalization made already": (
        lambda: MLP(3, (8,), normalization=nn.LayerNorm(8)),
        TypeError,
        r"normalization= expected a module's class, got LayerNorm.*write nn.LayerNorm or nn.BatchNorm1d",
    ),
    "image normalization of vectors": (
        lambda: MLP(3, (8,), normalization=nn.BatchNorm2d),
        ValueError,
        r"BatchNorm2d.*does not take features of \(8,\).*write nn.LayerNorm or nn.BatchNorm1d",
    ),
    "vector normalization of images": (
        lambda: ConvEncoder((1, 8, 8), (8,), normalization=nn.LayerNorm),
        ValueError,
        r"LayerNorm.*does not take features of \(8, 4, 4\).*write nn.BatchNorm2d or functools.partial",
    ),
    "a normalization of another size": (
        lambda: MLP(3, (8,), normalization=partial(nn.Linear, out_features=3)),
        ValueError,
        r"changes the shape of its input: write nn.LayerNorm",
    ),
    "dropout of everything": (lambda: MLP(3, (8,), dropout=1.0), ValueError, r"dropout= must be .*\[0, 1\), got 1.0"),
    "negative dropout": (lambda: Transformer((6, 2), 8, dropout=-0.1), ValueError, r"dropout= must be .*got -0.1"),
    "no shortcut to make": (
        lambda: MLP(3, (8, 4), residual=True),
        ValueError,
        r"expected a layer as wide as its input, got widths \(3, 8, 4\): write .*hidden=\(4, 4\)",
    ),
    "no module": (lambda: BatchAxes(torch.tanh, 3, 3), TypeError, r"expected a module, got builtin.*nn.Module"),
    "a network in another shape": (
        lambda: BatchAxes(MLP(3, (8,), 5), 4, 5),
        ValueError,
        r"BatchAxes expected in_shape=\(3,\), which is its MLP's, got \(4,\)",
    ),
    "a network closed otherwise": (
        lambda: BatchAxes(MLP(3, (8,), 5), 3, 6),
        ValueError,
        r"MLP is closed: expected out_shape=\(6,\), it has \(5,\)",
    ),
    "an empty chain": (lambda: Chain(), ValueError, r"expected at least one network, got none: write Chain\(first"),
    "a bare module in a chain": (
        lambda: Chain(backbone(), MLP(6, (8,))),
        TypeError,
        r"Chain expected a pyrovae Network, got Sequential: write BatchAxes\(module, in_shape, out_shape\)",
    ),
    "a chain with an open link": (
        lambda: Chain(MLP(3, (8,)), MLP(6, (8,))),
        ValueError,
        r"got an open MLP: write out_shape=\(6,\) there",
    ),
    "a chain that does not fit": (
        lambda: Chain(MLP(3, (8,), 5), MLP(6, (8,))),
        ValueError,
        r"expected MLP to take \(5,\), which MLP gives, got in_shape=\(6,\): write in_shape=\(5,\) there",
    ),
    "an image without channels": (
        lambda: ConvEncoder((28, 28)),
        ValueError,
        r"expected in_shape=\(channels, height, width\), got \(28, 28\): write in_shape=\(1, 28, 28\)",
    ),
    "a vector to an encoder": (
        lambda: ConvEncoder(784),
        ValueError,
        r"got \(784,\): write in_shape=\(1, 28, 28\), say",
    ),
    "no stages": (
        lambda: ConvDecoder(10, ()),
        ValueError,
        r"ConvDecoder expected at least one number of channels, got \(\)",
    ),
    "a decoder of vectors": (
        lambda: ConvDecoder(10).close(784),
        ValueError,
        r"expected an image \(..., height, width\) for its output, got \(784,\)",
    ),
    "an image as a sequence": (
        lambda: GRU((1, 8, 8), 5),
        ValueError,
        r"GRU expected in_shape=\(time, features\), or a vector, got \(1, 8, 8\)",
    ),
    "no state": (lambda: GRU((6, 2), 0), ValueError, r"hidden must be at least 1, got 0"),
    "no layers": (lambda: Transformer((6, 2), 8, layers=0), ValueError, r"layers must be at least 1, got 0"),
    "heads that do not divide": (
        lambda: Transformer((6, 2), 10),
        ValueError,
        r"a multiple of heads=4, got 10: write 40",
    ),
    "steps from a vector head": (
        lambda: GRU((6, 2), 5, 7, per_step=True),
        ValueError,
        r"GRU expected out_shape=\(..., 6, features\) where each step has an output, got \(7,\): write out_shape=\(2, 6, 3\)",
    ),
    "another number of steps": (
        lambda: GRU((6, 2), 5, (7, 2), per_step=True),
        ValueError,
        r"expected out_shape=\(..., 6, features\)",
    ),
    "no categories": (lambda: Embed(0, 4), ValueError, r"categories must be at least 1, got 0"),
    "categories without names": (lambda: Embed([], 4), ValueError, r"categories must be at least 1, got 0"),
    "a fraction of categories": (lambda: Embed(2.5, 4), TypeError, r"categories must be .* got 2.5"),
    "no covariates": (
        lambda: FiLM(MLP(3, (8,)), {}),
        ValueError,
        r"FiLM expected covariates=\{name: shape or network\}, got \{\}: write covariates=",
    ),
    "a name alone": (
        lambda: ConcatCovariates(MLP(13, (8,)), 3, "label"),
        ValueError,
        r"got 'label': write covariates=",
    ),
    "an open network of covariates": (
        lambda: FiLM(MLP(3, (8,)), {"label": MLP(3, (8,))}),
        ValueError,
        r"expected a closed network for 'label', got an open one",
    ),
    "a bare module under covariates": (
        lambda: ConcatCovariates(backbone(), 3, LABEL),
        TypeError,
        r"ConcatCovariates expected a pyrovae Network, got Sequential",
    ),
    "a bare module under FiLM": (lambda: FiLM(backbone(), LABEL), TypeError, r"FiLM expected a pyrovae Network"),
    "no room for the covariates": (
        lambda: ConcatCovariates(MLP(784, (8,)), 784, LABEL),
        ValueError,
        r"in_shape=\(794,\), room for a value \(784,\) and covariates of \(10,\), got \(784,\): write in_shape=\(794,\)",
    ),
    "no channels for the covariates": (
        lambda: ConcatCovariates(ConvEncoder((1, 28, 28)), (1, 28, 28), LABEL),
        ValueError,
        r"expected a network with in_shape=\(794,\) or \(1, 28, 38\) or \(1, 38, 28\) or \(11, 28, 28\)",
    ),
    "nothing to modulate": (
        lambda: FiLM(ConcatCovariates(MLP(10, (8,)), None, LABEL), LABEL),
        ValueError,
        r"expected a value .* got in_shape=\(0,\)",
    ),
    "no such axis": (
        lambda: FiLM(MLP(3, (8,)), LABEL, axis=1),
        ValueError,
        r"with an axis 1 to modulate, got in_shape=\(3,\): write another axis=",
    ),
    "a generator of another size": (
        lambda: FiLM(MLP(3, (8,)), LABEL, MLP(9, (8,))),
        ValueError,
        r"in_shape=\(10,\), .*got \(9,\): write in_shape=10 there",
    ),
    "a generator closed otherwise": (
        lambda: FiLM(MLP(3, (8,)), LABEL, MLP(10, (8,), 3)),
        ValueError,
        r"closed: expected out_shape=\(2, 3\), it has \(3,\)",
    ),
    "a bare generator": (
        lambda: FiLM(MLP(3, (8,)), LABEL, nn.Linear(10, 6)),
        TypeError,
        r"FiLM's generator= expected a pyrovae Network",
    ),
    "two heads": (
        lambda: Headed(MLP(3, (8,), 5), 4),
        ValueError,
        r"expected an open network, got a closed MLP: leave its out_shape out",
    ),
    "a head for what is closed": (
        lambda: Embed(3, 4).add_head(torch.Size([5])),
        ValueError,
        r"Embed is closed with out_shape=\(4,\)",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), CONSTRUCTION.values(), ids=CONSTRUCTION)
def test_construction_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


CALLS = {
    "a flat image": (
        lambda: MLP((1, 8, 8), (8,), 5)(torch.zeros(3, 64)),
        ValueError,
        r"MLP expected an input of shape \(\*batch, 1, 8, 8\), got \(3, 64\): reshape the input, or write in_shape=\(64,\)",
    ),
    "an image without channels": (
        lambda: ConvEncoder((1, 8, 8), (8,), 5)(torch.zeros(3, 8, 8)),
        ValueError,
        r"got \(3, 8, 8\)",
    ),
    "channels last": (
        lambda: MLP((1, 8, 8), (8,), 5)(torch.zeros(3, 8, 8, 1)),
        ValueError,
        r"expected an input of shape \(\*batch, 1, 8, 8\), got \(3, 8, 8, 1\): reshape the input",
    ),
    "too few axes": (lambda: ConvEncoder((1, 8, 8), (8,), 5)(torch.zeros(8)), ValueError, r"got \(8,\)"),
    "an array": (
        lambda: MLP(3, (8,), 5)([1.0, 2.0, 3.0]),
        TypeError,
        r"expected a tensor of shape \(\*batch, 3\), got list: use torch",
    ),
    "no value": (
        lambda: MLP(3, (8,), 5)(None),
        TypeError,
        r"got NoneType: a network without a value is ConcatCovariates\(net, None",
    ),
    "a module of another output": (
        lambda: BatchAxes(nn.Linear(3, 4), 3, 5)(torch.zeros(2, 7, 3)),
        ValueError,
        r"Linear expected to return \(14, 5\), got \(14, 4\) for an input of \(14, 3\): write out_shape=\(4,\)",
    ),
    "a module of two outputs": (
        lambda: BatchAxes(nn.GRU(3, 4), (6, 3), (6, 4))(torch.zeros(2, 6, 3)),
        TypeError,
        r"GRU returned a tuple, expected one tensor: wrap it",
    ),
    "codes where a vector was said": (
        lambda: ConcatCovariates(MLP(13, (8,), 5), 3, LABEL)(torch.zeros(2, 3), {"label": torch.tensor([1, 2])}),
        ValueError,
        r"covariate 'label' of ConcatCovariates: .*\(\*batch, 10\), got \(2,\).*a category's code needs Embed",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), CALLS.values(), ids=CALLS)
def test_a_call_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_network_of_the_user_s_own_needs_forward_alone():
    class Half(Network):
        pass

    class Twice(Network):
        def forward(self, x, covariates=None):
            return 2 * x

    with pytest.raises(TypeError, match="forward"):
        Half(3, 3)
    assert Twice(3, 3).close(3)(torch.ones(2, 3)).tolist() == [[2.0] * 3] * 2
    with pytest.raises(ValueError, match="Twice is open, it has no output yet: write out_shape="):
        Twice(3).close(4)


CODES = {
    "a fraction": (
        torch.tensor([0.0, 2.9]),
        r"the code 2.9 in row 1, Embed\(3, 4\) knows 0..2: categories are integers",
    ),
    "a standardized covariate": (torch.linspace(-0.99, 0.99, 5), r"the code -0.99 in row 0"),
    "pandas' missing code": (
        torch.tensor([0, 1, -1]),
        r"the code -1 in row 2, .*\(-1 is pandas' code for a missing one\)",
    ),
    "a new level": (torch.tensor([3, 0]), r"the code 3 in row 0"),
    "NaN": (torch.tensor([0.0, torch.nan]), r"the code nan in row 1"),
    "infinity": (torch.tensor([0.0, torch.inf]), r"the code inf in row 1"),
}


@pytest.mark.parametrize(("codes", "message"), CODES.values(), ids=CODES)
def test_codes_that_are_none_are_refused(codes, message):
    embed = Embed(3, 4)
    with pytest.raises(ValueError, match=message):
        embed(codes)
    net = Chain(FiLM(MLP(5, (), 5), {"size": 2}), FiLM(MLP(5, (), 2), {"batch": Chain(embed, MLP(4, (8,), 3))}))
    with pytest.raises(ValueError, match=f"covariate 'batch' has {message}") as caught:
        check_covariates(net, {"batch": codes, "size": torch.zeros(len(codes), 2)})
    assert caught.value.argument == "covariates"
    check_covariates(net, {"batch": codes.nan_to_num().clamp(0, 2).long()})
    check_covariates(BatchAxes(net, 5, 2), {"batch": codes.nan_to_num().clamp(0, 2).long().double()})


def test_without_validation_a_fraction_gives_nan_and_reads_no_value():
    embed = Embed(3, (2, 2))
    with pyro.validation_enabled(False):
        vectors = embed(torch.tensor([1.0, 1.5]))
        assert torch.equal(vectors[0], embed.table[1])
        assert vectors[1].isnan().all()
        assert embed.to("meta")(torch.zeros(2, device="meta")).shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("entry", "shape", "message"),
    [
        ((), (6, 1), r"covariate 'size' has shape \(6, 1\), expected \(\) for each row in .*: write size\[:, 0\]$"),
        ((1,), (6,), r"shape \(6,\), expected \(1,\) .*: write size\[:, None\]$"),
        ((1,), (6, 1, 1), r"shape \(6, 1, 1\), expected \(1,\) .*: write size\[:, 0, 0, None\]$"),
        (Embed(3, 1), (6, 1), r"shape \(6, 1\), expected \(\) .*: write size\[:, 0\]$"),
        (3, (6,), r"expected \(3,\) .*: a category's code needs Embed\(categories, dim\)"),
        (3, (6, 2), r"expected \(3,\) .*: reshape it to \(rows, 3\)"),
    ],
)
def test_covariates_of_another_shape_are_refused_before_they_broadcast(entry, shape, message):
    width = 1 if entry in ((), (1,)) or isinstance(entry, Embed) else 3
    net = ConcatCovariates(MLP(5 + width, (), 2), 5, {"size": entry})
    with pytest.raises(ValueError, match=message):
        check_covariates(net, {"size": torch.zeros(shape)})


@pytest.mark.parametrize(
    ("categories", "levels", "right"),
    [
        (3, ("a", "b", "c"), True),
        (3, ("a", "c"), False),
        (("a", "b", "c"), ("a", "b", "c"), True),
        (("a", "b", "c"), ("a", "c", "b"), False),
        (("a", "b", "c"), None, True),
    ],
)
def test_levels_are_those_of_the_categories(categories, levels, right):
    net = FiLM(MLP(5, (), 2), {"batch": Embed(categories, 4)})
    known = {} if levels is None else {"batch": levels}
    if right:
        return check_covariates(net, {"batch": torch.tensor([0, 1])}, known)
    with pytest.raises(
        ValueError, match=r"covariate 'batch' has the levels a, c.*Embed knows .*: give a pandas.Categorical"
    ):
        check_covariates(net, {"batch": torch.tensor([0, 1])}, known)
    return None


def test_any_module_may_check_covariates():
    class Positive(nn.Module):
        def check_covariates(self, covariates, levels):
            raise ValueError("size must be positive")

    with pytest.raises(ValueError, match="size must be positive"):
        check_covariates(nn.ModuleDict({"likelihood": Positive()}), {})
