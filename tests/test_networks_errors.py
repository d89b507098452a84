"""What networks refuse, and the remedy they name."""

from functools import partial

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
    "no state": (lambda: GRU((6, 2), 0), ValueError, r"hidden must be a positive integer, got 0"),
    "no layers": (lambda: Transformer((6, 2), 8, layers=0), ValueError, r"layers must be a positive integer, got 0"),
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
    "no categories": (lambda: Embed(0, 4), ValueError, r"num_categories must be a positive integer, got 0"),
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
        r"covariates 'label' of ConcatCovariates: .*\(\*batch, 10\), got \(2,\).*a category's code needs Embed",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), CALLS.values(), ids=CALLS)
def test_a_call_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_network_of_the_user_s_own_needs_both_methods():
    class Half(Network):
        def forward(self, x, covariates=None):
            return x

    with pytest.raises(TypeError, match="add_head"):
        Half(3, 3)
