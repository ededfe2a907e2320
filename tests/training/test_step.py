"""One step: learning rate, what decays, precision, non-finite losses, randomness."""

import math

import pytest
import torch
from tiny_training import make_model, make_recipe

from wholegrain.data.batch import collate
from wholegrain.objectives.objective import Objective
from wholegrain.objectives.schema import Optimiser
from wholegrain.towers.model import Model
from wholegrain.training.encoder import Encoder
from wholegrain.training.loading.loader import DrawnSamples, names_of
from wholegrain.training.memory.precision import resolve_precision
from wholegrain.training.schedule import decay_start, learning_rate
from wholegrain.training.step import (
    NonFiniteLossError,
    StepOptions,
    make_optimiser,
    seed_everything,
    take_step,
)


def batch_of(dataset, recipe, model):
    names = names_of(dataset, recipe.data)
    samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, 0)
    return collate(
        [samples[key, n] for n, key in enumerate(dataset.keys("train")[:8])], model.tokenizer, names.roles, names.kinds
    )


def step_of(dataset, name="clip", *overrides, lr=1e-3, precision="fp32", **kwargs):
    model, recipe = make_model(dataset), make_recipe(name, *overrides)
    optimiser = make_optimiser(model, recipe.optimiser)
    batch = batch_of(dataset, recipe, model)
    outcome = take_step(Encoder(model), Objective(recipe.terms), optimiser, batch, step=0, lr=lr, options=StepOptions(precision=precision, **kwargs))
    return model, outcome


def test_the_rate_warms_up_and_follows_a_cosine():
    settings = Optimiser(lr=2.0, warmup_steps=10)
    rates = [learning_rate(step, 110, settings) for step in range(110)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(1 - math.cos(math.pi / 100), rel=1e-6)
    assert max(learning_rate(step, 8, settings) for step in range(8)) == 2.0  # a short run still reaches the peak
    assert learning_rate(90, 110, Optimiser(lr=2.0, schedule="constant")) == 2.0


def test_the_stable_rate_is_that_of_any_longer_run_until_it_falls_like_one_minus_a_root():
    settings = Optimiser(lr=2.0, warmup_steps=10, schedule="wsd", decay_share=0.2)
    short, long = ([learning_rate(step, total, settings) for step in range(total)] for total in (50, 200))
    assert decay_start(50, settings) == 40
    assert short[:40] == long[:40] == [2.0 * step / 10 for step in range(1, 11)] + [2.0] * 30
    assert short[40:] == pytest.approx([2 * (1 - (step / 10) ** 0.5) for step in range(10)])
    assert long[40:160] == [2.0] * 120
    assert [decay_start(total, settings) for total in (1, 2, 8)] == [0, 1, 6]
    assert [learning_rate(step, 1, settings) for step in (0,)] == [2.0]


def test_vectors_and_the_temperature_do_not_decay(dataset):
    model = make_model(dataset)
    with_decay, without = make_optimiser(model, Optimiser(weight_decay=0.3)).param_groups
    assert (with_decay["weight_decay"], without["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim >= 2 for p in with_decay["params"])
    assert any(p is model.log_scale for p in without["params"])
    assert len(with_decay["params"]) + len(without["params"]) == len(list(model.parameters()))
    model.image_tower.tune("none")
    ids = {id(p) for group in make_optimiser(model, Optimiser()).param_groups for p in group["params"]}
    assert not ids & {id(p) for p in model.image_tower.parameters()}


def test_a_step_is_adamw_on_the_objective(dataset):
    # A large eps, since AdamW blows rounding up to whole steps where the true gradient is zero (a bias of attention keys).
    overrides = ("ce_clip", "--optimiser.eps", "1e-2")
    model, outcome = step_of(dataset, *overrides)
    reference, recipe = make_model(dataset), make_recipe(*overrides)
    batch = batch_of(dataset, recipe, reference)
    optimiser = torch.optim.AdamW(make_optimiser(reference, recipe.optimiser).param_groups, betas=(0.9, 0.98), eps=1e-2)
    for group in optimiser.param_groups:
        group |= {"lr": 1e-3, "fused": False}
    image = reference.encode_images(batch.views[0].pixels_BCHW)
    text = reference.encode_texts(batch.tokens_NL, batch.length_N)  # every text apart, not each distinct one once
    loss = Objective(recipe.terms)(image, text, batch.pairing, reference.scale).value
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in reference.parameters() if p.grad is not None]).norm()
    optimiser.step()
    assert outcome.loss == pytest.approx(loss.item(), rel=1e-5)
    assert outcome.grad_norm == pytest.approx(norm.item(), rel=1e-4)
    for (name, one), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)
    assert (outcome.images, outcome.texts) == (8, len(batch.pairing.owner_N))


def test_clipping_bounds_the_update(dataset):
    _, free = step_of(dataset)
    model, recipe = make_model(dataset), make_recipe()
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    batch = batch_of(dataset, recipe, model)
    clipped = take_step(Encoder(model), Objective(recipe.terms), sgd, batch, step=0, lr=1.0, options=StepOptions(free.grad_norm / 4))
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm().item() == pytest.approx(free.grad_norm / 4, rel=1e-3)
    assert clipped.grad_norm == pytest.approx(free.grad_norm, rel=1e-5)  # the norm before clipping is what is logged


def test_bf16_is_near_fp32(dataset):
    _, exact = step_of(dataset)
    _, rough = step_of(dataset, precision="bf16")
    assert rough.loss == pytest.approx(exact.loss, rel=0.05)
    assert rough.loss != exact.loss


@pytest.mark.parametrize(
    ("units", "expected"),
    [({"avx2": True}, "fp32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_bf16": False}, "fp32")],
)
def test_auto_takes_bf16_where_the_processor_has_units_for_it(units, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == expected
    assert resolve_precision("bf16", torch.device("cpu")) == "bf16"
    assert resolve_precision("fp32", torch.device("cpu")) == "fp32"
    assert resolve_precision("auto", torch.device("mps")) == "fp32"


def test_a_loss_that_is_not_finite_updates_nothing(dataset):
    model, recipe = make_model(dataset), make_recipe()
    optimiser = make_optimiser(model, recipe.optimiser)
    batch = batch_of(dataset, recipe, model)
    with torch.no_grad():
        model.head.image.weight[0, 0] = math.inf
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(NonFiniteLossError):
        take_step(Encoder(model), Objective(recipe.terms), optimiser, batch, step=0, lr=1e-3)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_randomness_is_a_function_of_its_numbers():
    draws = []
    for parts in [(0, 1), (0, 2), (1, 1), (0, 1)]:
        seed_everything(*parts)
        draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[3])
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_gradients_of_a_step_are_added_in_one_order(dataset, monkeypatch):
    found = []
    monkeypatch.setattr(Model, "keep_in_range", lambda _: found.append(torch.are_deterministic_algorithms_enabled()))
    model, recipe = make_model(dataset), make_recipe("ce_clip")
    next(iter(model.image_tower.parameters())).register_hook(lambda _: found.append(torch.are_deterministic_algorithms_enabled()))
    take_step(
        Encoder(model), Objective(recipe.terms), make_optimiser(model, recipe.optimiser), batch_of(dataset, recipe, model), step=0, lr=1e-3
    )
    assert found == [True, False]  # while gradients are made, and afterwards
