"""Which library multiplies matrices, how exactly, and with how many threads."""

from contextlib import nullcontext

import pytest
import torch
from programs import counts, counts_vae
from test_compiling import trained

from pyrovae.compiling import products, trace
from pyrovae.training import engine, levels

COUNTS = counts(72)


def graph_of(rows, inner, columns):
    weight = torch.randn(inner, columns, requires_grad=True)
    x = torch.randn(rows, inner)
    return trace(lambda x: (x @ weight).square().sum(), [x], [x.flip(0)], [weight]).module


def test_the_products_of_a_graph_are_those_of_the_loss_and_of_its_gradients():
    assert products.products_of(graph_of(8, 3, 5)) == [(8, 3, 5), (3, 8, 5)]


@pytest.mark.parametrize(("inner", "is_small"), [(9_000, True), (11_000, False)])
def test_a_small_graph_is_run_by_one_thread(inner, is_small):
    assert products.is_small(graph_of(10, inner, 100)) == is_small  # two products: 1.8e7 or 2.2e7 multiplications


def test_the_setting_is_put_back():
    settings = getattr(torch.backends.mkldnn, "matmul", None)
    if settings is None:
        pytest.skip("this torch has no such setting")
    before, inside = settings.fp32_precision, []

    @products.by_onednn()
    def fail():
        inside.append(settings.fp32_precision)
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == ["bf16"]
    assert settings.fp32_precision == before


@pytest.mark.parametrize(("share", "is_exact", "chosen"), [(0.8, True, True), (0.95, True, False), (0.8, False, False)])
def test_onednn_is_chosen_where_it_is_exact_and_clearly_faster(share, is_exact, chosen, monkeypatch):
    now, moved = [0.0], [0]

    def clock():  # every second interval, that of oneDNN, is shorter
        moved[0] += 1
        now[0] += 1.0 if moved[0] % 4 in (1, 2) else share
        return now[0]

    monkeypatch.setattr(products.time, "perf_counter", clock)
    monkeypatch.setattr(products, "is_exact", lambda: is_exact)
    assert products.onednn_is_faster([(4, 4, 4)]) == chosen
    assert not products.onednn_is_faster([])


def test_rounded_products_train_to_about_the_same_loss():
    exact, rounded, replayed = (
        trained(counts_vae, COUNTS, level, epochs=10, precision=precision)
        for level, precision in ((False, None), (False, "bf16"), ("trace", "bf16"))
    )
    assert replayed[2].engine == "traced"
    assert str(rounded[1]) == str(replayed[1])
    assert rounded[1][-1]["loss"] == pytest.approx(exact[1][-1]["loss"], rel=0.01)


def test_nothing_is_rounded_where_the_processor_has_no_units_for_it(monkeypatch):
    monkeypatch.setattr(levels, "is_exact", lambda: True)
    entered = []
    monkeypatch.setattr(engine, "by_onednn", lambda used: entered.append(used) or nullcontext())
    trained(counts_vae, COUNTS, False, precision="bf16")
    monkeypatch.setattr(levels, "is_exact", lambda: False)
    trained(counts_vae, COUNTS, False, precision="bf16")
    assert entered[0] is False
    assert entered[-1] is True


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be one of None, bf16"):
        trained(counts_vae, COUNTS, False, precision="fp8")
