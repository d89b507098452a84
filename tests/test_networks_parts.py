"""Networks one by one: what they compute, against formulas written by hand or torch's own modules."""

import itertools
import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from network_cases import NORMALISED, backbone
from torch import nn
from torch.nn import functional

from pyrovae import Factorized
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
    Transformer,
)
from pyrovae.networks.layers import Gate, Residual
from pyrovae.networks.sequence import Attention, StepHead, positions_like

EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(autouse=True)
def _double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# Fully connected


def test_without_hidden_layers_an_mlp_is_linear():
    net, x = MLP((2, 3), (), (4, 1)), torch.randn(7, 2, 3)
    expected = (x.reshape(7, 6) @ net.head.weight.T + net.head.bias).reshape(7, 4, 1)
    torch.testing.assert_close(net(x), expected, **EXACT)


def test_an_mlp_is_the_same_modules_in_a_row():
    net, x = MLP(5, (6, 7), 3, activation=nn.Tanh), torch.randn(4, 5)
    linears = [module for module in net.modules() if isinstance(module, nn.Linear) and module is not net.head]
    h = x
    for linear, shape in zip(linears, [(6, 5), (7, 6)], strict=True):
        assert linear.weight.shape == shape
        h = torch.tanh(linear(h))
    torch.testing.assert_close(net(x), net.head(h), **EXACT)


def test_gates_multiply_one_half_by_the_sigmoid_of_the_other():
    net, x = MLP(5, (6,), 3, gated=True), torch.randn(4, 5)
    linear = net.body[0][0]
    a, b = linear.weight[:6], linear.weight[6:]
    h = (x @ a.T + linear.bias[:6]) * torch.sigmoid(x @ b.T + linear.bias[6:])
    torch.testing.assert_close(net(x), net.head(h), **EXACT)
    torch.testing.assert_close(Gate(nn.Identity())(x[:, :4]), functional.glu(x[:, :4]), **EXACT)


def test_shortcuts_join_layers_of_one_width_alone():
    net, x = MLP(5, (6, 6, 4), 3, residual=True), torch.randn(4, 5)
    assert [isinstance(layer, Residual) for layer in net.body] == [False, True, False]
    h = functional.silu(net.body[0][0](x))
    h = h + functional.silu(net.body[1].module[0](h))
    torch.testing.assert_close(net.features(x), functional.silu(net.body[2][0](h)), **EXACT)


def test_normalization_comes_before_the_activation():
    net, x = MLP(5, (6,), 3, normalization=nn.LayerNorm, activation=nn.ReLU), torch.randn(4, 5)
    h = functional.relu(functional.layer_norm(net.body[0][0](x), (6,)))
    torch.testing.assert_close(net.features(x), h, **EXACT)


def test_no_two_layers_share_an_activation():
    net = MLP(5, (6, 6), 3, activation=nn.PReLU)
    assert len([p for p in net.parameters() if p.shape == (1,)]) == 2


def test_dropout_acts_in_training_alone():
    net, x = MLP(5, (400,), 3, dropout=0.25), torch.randn(1, 5)
    dropped = (net.features(x) == 0).double().mean()
    assert abs(dropped - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 400)
    assert (net.eval().features(x) != 0).all()


# Batch norm and modules of the user's own


@pytest.mark.parametrize("make", NORMALISED.values(), ids=NORMALISED)
def test_batch_norm_runs_over_all_leading_axes(make):
    net = make()
    flat = make()
    flat.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 4, *net.in_shape)
    torch.testing.assert_close(net(x), flat(x.flatten(0, 2)).reshape(2, 3, 4, *net.out_shape), **EXACT)
    for (name, buffer), other in zip(net.named_buffers(), flat.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, **EXACT, msg=name)


def test_batch_norm_in_training_is_the_batch_s_own_mean_and_variance():
    net, x = MLP(5, (6,), 3, normalization=nn.BatchNorm1d, activation=nn.Identity), torch.randn(2, 4, 5)
    h = net.body[0][0](x).reshape(8, 6)
    h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(net(x), net.head(h).reshape(2, 4, 3), **EXACT)


@pytest.mark.parametrize("make", NORMALISED.values(), ids=NORMALISED)
@pytest.mark.parametrize("batch", [(), (1,), (1, 1)], ids=str)
def test_one_training_row_under_batch_norm_is_refused(make, batch):
    net = make()
    x = torch.randn(*batch, *net.in_shape)
    with pytest.raises(ValueError, match=r"\(batch norm\), got one training row: give at least two, call .eval\(\)"):
        net(x)
    assert net.eval()(x).shape == (*batch, *net.out_shape)


def test_one_training_row_is_fine_under_other_normalizations():
    assert MLP(5, (6,), 3, normalization=nn.LayerNorm)(torch.randn(5)).shape == (3,)
    conv = ConvEncoder((1, 5, 7), (4,), 4, normalization=partial(nn.GroupNorm, 2))
    assert conv(torch.randn(1, 1, 5, 7)).shape == (1, 4)


def test_a_frozen_module_stays_as_it_is_while_its_chain_trains():
    module = backbone().requires_grad_(False)
    net = Chain(BatchAxes(module, (1, 5, 7), 6), MLP(6, (8,), 2)).train()
    assert net.training
    assert not any(part.training for part in module.modules())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    net(torch.randn(1, 1, 5, 7)).sum().backward()  # one training row: the frozen batch norm does not mind
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(parameter.grad is not None for parameter in net.networks[1].parameters())
    assert net.eval().train().networks[1].training


def test_a_module_that_is_freed_trains_again():
    module = backbone().requires_grad_(False)
    net = BatchAxes(module, (1, 5, 7), 6)
    module.requires_grad_(True)
    assert not module.training
    assert net.train().module.training


def test_a_module_without_parameters_is_not_frozen():
    assert BatchAxes(nn.Dropout(0.5), 6, 6).module.training


# Images


@pytest.mark.parametrize("size", [*itertools.product(range(1, 10), [1, 4, 7]), (28, 28), (27, 31)], ids=str)
@pytest.mark.parametrize("stages", [1, 3])
def test_encoder_and_decoder_take_any_size(size, stages):
    encoder = ConvEncoder((2, *size), (3,) * stages, 4)
    decoder = ConvDecoder(4, (3,) * stages, (2, 2, *size))
    assert decoder(encoder(torch.randn(2, 2, *size))).shape == (2, 2, 2, *size)


def test_every_pixel_reaches_the_code_and_is_reached_by_it():
    x = torch.randn(2, 1, 7, 9, requires_grad=True)
    ConvEncoder((1, 7, 9), (4, 4), 3)(x).square().sum().backward()
    assert (x.grad != 0).all()
    decoder = ConvDecoder(3, (4, 4), (1, 7, 9))
    assert (decoder(torch.zeros(3)) != decoder(torch.ones(3))).all()


def test_a_decoder_stage_is_a_transposed_convolution_cropped():
    net, z = ConvDecoder(3, (4, 5), (2, 7, 5), activation=nn.Tanh), torch.randn(6, 3)
    h = torch.tanh(net.head.stem(z).reshape(6, 4, 2, 2))
    h = functional.conv_transpose2d(h, net.ups[0].weight, net.ups[0].bias, stride=2, padding=1)[..., :4, :3]
    last = net.head.last
    expected = functional.conv_transpose2d(torch.tanh(h), last.weight, last.bias, stride=2, padding=1)[..., :7, :5]
    torch.testing.assert_close(net(z), expected, **EXACT)


def test_feature_maps_are_cropped_at_every_stage():
    net, seen = ConvDecoder(3, (4, 4, 4), (1, 9, 11), residual_blocks=1), []
    for refine in net.refines:
        refine.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    net(torch.randn(3))
    assert seen == [(2, 2), (3, 3), (5, 6)]


def test_a_residual_block_is_a_shortcut_around_two_convolutions():
    plain = ConvEncoder((1, 8, 8), (4,), 3)
    net = ConvEncoder((1, 8, 8), (4,), 3, residual_blocks=2)
    x = torch.randn(5, 1, 8, 8)
    net.load_state_dict(plain.state_dict(), strict=False)
    for name, parameter in net.named_parameters():
        if ".module.3." in name:  # the block's last convolution
            nn.init.zeros_(parameter)
    torch.testing.assert_close(net(x), plain(x), **EXACT)
    assert len(list(net.parameters())) == len(list(plain.parameters())) + 2 * 2 * 2


def test_an_open_decoder_closes_for_images_of_two_sizes():
    trunk = ConvDecoder(3, (6, 4))
    small, large = trunk.close((1, 8, 8)), trunk.close((2, 3, 27, 31))
    assert small(torch.randn(5, 3)).shape == (5, 1, 8, 8)
    assert large(torch.randn(5, 3)).shape == (5, 2, 3, 27, 31)
    assert small.trunk is large.trunk


# Sequences


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_gru_summarizes_by_its_last_state(bidirectional):
    net, x = GRU((6, 2), 5, 4, layers=2, bidirectional=bidirectional), torch.randn(3, 6, 2)
    _, last = net.body(net.enter(x))
    directions = 2 if bidirectional else 1
    expected = net.head(last[-directions:].movedim(0, 1).reshape(3, -1))
    torch.testing.assert_close(net(x), expected, **EXACT)


def test_a_forward_gru_does_not_look_ahead():
    x = torch.randn(6, 2, requires_grad=True)
    net = GRU((6, 2), 5, (6, 3), per_step=True)
    (gradient,) = torch.autograd.grad(net(x)[3].square().sum(), x)
    assert (gradient[:4] != 0).all()
    assert (gradient[4:] == 0).all()


@pytest.mark.parametrize("make", [partial(GRU, 4, 8, (6, 3)), partial(Transformer, 4, 8, (6, 3))])
def test_a_vector_gives_steps_that_differ(make):
    net, entered = make(), []
    net.body.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0][0]))
    for steps in (net(torch.randn(4)), *entered):
        assert len(steps) == 6
        assert (steps[1:] - steps[:-1]).abs().amax(-1).amin() > 1e-4


def test_attention_is_torch_s():
    ours, theirs, x = Attention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(3, 5, 8)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.enter.weight)
        theirs.in_proj_bias.copy_(ours.enter.bias)
        theirs.out_proj.weight.copy_(ours.leave.weight)
        theirs.out_proj.bias.copy_(ours.leave.bias)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0], **EXACT)


def test_a_transformer_knows_the_order():
    net, x = Transformer((6, 2), 8, 4), torch.randn(6, 2)
    assert (net(x) - net(x.flip(0))).abs().amax() > 1e-3
    net.positions = False
    torch.testing.assert_close(net(x), net(x.flip(0)), **EXACT)


@pytest.mark.parametrize("width", [7, 8])
def test_positions_are_sines_and_cosines(width):
    positions = positions_like(torch.zeros(2, 5, width))
    for step, feature in itertools.product(range(5), range(width)):
        angle = step / 10_000 ** (2 * (feature // 2) / width)
        expected = math.cos(angle) if feature % 2 else math.sin(angle)
        assert abs(positions[step, feature].item() - expected) < 1e-12


def test_a_head_for_each_step_keeps_parameters_first():
    head, steps = StepHead("GRU", 7, torch.Size([2, 5, 6, 3]), None), torch.randn(4, 6, 7)
    output = head(steps)
    for i, j, step, feature in itertools.product(range(2), range(5), range(6), range(3)):
        row = (i * 5 + j) * 3 + feature
        expected = steps[:, step] @ head.linear.weight[row] + head.linear.bias[row]
        torch.testing.assert_close(output[:, i, j, step, feature], expected, **EXACT)


# Covariates


def test_an_embedding_is_a_row_of_its_table():
    net = Embed(5, (2, 3))
    codes = torch.tensor([[4, 0, 1], [1, 1, 2]])
    expected = torch.stack([torch.stack([net.table[code] for code in row]) for row in codes.tolist()])
    for dtype in (torch.int64, torch.uint8, torch.float64):
        torch.testing.assert_close(net(codes.to(dtype)), expected, **EXACT)


def test_covariates_are_concatenated_behind_the_value():
    inner = MLP(6 + 3 + 4, (), 5)
    net = ConcatCovariates(inner, (2, 3), {"size": 3, "position": (2, 2)})
    x, size, position = torch.randn(4, 1, 2, 3), torch.randint(9, (7, 3)), torch.randn(2, 2)
    parts = [x.reshape(4, 1, 6).expand(4, 7, 6), size.double().expand(4, 7, 3), position.reshape(4).expand(4, 7, 4)]
    torch.testing.assert_close(net(x, {"size": size, "position": position}), inner(torch.cat(parts, -1)), **EXACT)


def test_covariates_of_an_image_are_constant_channels():
    inner = ConvEncoder((2 + 3 + 1, 4, 5), (4,), 5)
    net = ConcatCovariates(inner, (2, 4, 5), {"size": 3, "mask": (1, 4, 5)})
    x, size, mask = torch.randn(7, 2, 4, 5), torch.randn(7, 3), torch.rand(7, 1, 4, 5) < 0.5
    maps = size[:, :, None, None].expand(7, 3, 4, 5)
    torch.testing.assert_close(
        net(x, {"size": size, "mask": mask}), inner(torch.cat([x, maps, mask.double()], 1)), **EXACT
    )


def test_covariates_of_a_sequence_are_repeated_at_each_step():
    inner = GRU((6, 2 + 3), 5, 4)
    net, x, size = ConcatCovariates(inner, (6, 2), {"size": 3}), torch.randn(7, 6, 2), torch.randn(7, 3)
    torch.testing.assert_close(
        net(x, {"size": size}), inner(torch.cat([x, size[:, None].expand(7, 6, 3)], -1)), **EXACT
    )


@pytest.mark.parametrize(
    ("shape", "axis", "features"), [((4,), 0, 4), ((4, 5, 6), 0, 4), ((5, 4), -1, 4), ((5, 4), 1, 4)]
)
def test_film_scales_and_shifts_along_its_axis(shape, axis, features):
    net = FiLM(MLP(shape, (), 3), {"size": 2}, axis=axis)
    x, size = torch.randn(7, *shape), torch.randn(7, 2)
    gamma, beta = net.generator(size).unbind(1)
    assert gamma.shape == (7, features)
    where = [slice(None), *[None] * len(shape)]
    where[1 + axis % len(shape)] = slice(None)
    expected = net.net((1 + gamma[tuple(where)]) * x + beta[tuple(where)])
    torch.testing.assert_close(net(x, {"size": size}), expected, **EXACT)


def test_entries_are_cast_and_leave_nothing_in_the_checkpoint():
    net = FiLM(MLP(4, (), 3), {"counts": 2, "mask": (2, 1)})
    counts, mask = torch.tensor([[3, 1]]), torch.tensor([[[True], [False]]])
    expected = net(torch.ones(4), {"counts": counts.double(), "mask": mask.double()})
    torch.testing.assert_close(net(torch.ones(4), {"counts": counts, "mask": mask}), expected, **EXACT)
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}


def test_film_takes_a_generator_of_the_user_s_own():
    net = FiLM(MLP(4, (), 3), {"size": 2, "other": 3}, generator=MLP(5, (6,)))
    assert net.generator.out_shape == (2, 4)
    assert net.close(3) is net


def test_a_conditional_prior_has_covariates_alone():
    prior = Factorized(dist.Normal, ConcatCovariates(MLP(4, (8,)), None, {"label": Embed(3, 4)}), event_shape=2)
    z = prior(covariates={"label": torch.tensor([0, 2, 2, 1])})
    assert (z.batch_shape, z.event_shape) == ((4,), (2,))
    assert torch.equal(z.mean[1], z.mean[2])
    assert not torch.equal(z.mean[0], z.mean[1])
