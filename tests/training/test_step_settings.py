"""How a step is computed: rates by depth, recomputed blocks, fp16, steps that are left out."""

import json
import math

import open_clip
import pytest
import torch
from tiny_training import make_dataset, make_model, make_recipe, train

from wholegrain.errors import UserError
from wholegrain.objectives.objective import Objective
from wholegrain.objectives.schema import Optimiser
from wholegrain.towers.io import load_model
from wholegrain.towers.sources.open_clip import OpenClipImageTower, OpenClipTextTower
from wholegrain.towers.sources.timm import timm_tower
from wholegrain.training.encoder import Encoder
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.memory.recompute import recomputed
from wholegrain.training.run import adapt_model
from wholegrain.training.step import NonFiniteLossError, StepOptions, make_optimiser, take_step

DEEP = {"image_layers": 3, "text_layers": 2, "reader": "transformer"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), splits=("train",))


def batches_of(dataset, recipe, model, count):
    names = names_of(dataset, recipe.data)
    samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, 0)
    return make_loader(samples, PlanSampler(Plan(dataset.keys("train"), 8, 0), 0, count), model.tokenizer, names)


def run(dataset, folder, recipe, model=None, **kwargs):
    return train(recipe, dataset, model or make_model(dataset), folder, device="cpu", quiet=True, **kwargs)


# ---- rates by depth -----------------------------------------------------------------------------------------------------------


def rates(model, settings):
    groups = make_optimiser(model, settings).param_groups
    return {id(p): (group["lr_share"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_each_stage_learns_slower_than_the_next(dataset):
    model = make_model(dataset, **DEEP)
    share = rates(model, Optimiser(layer_decay=0.5))
    assert len(share) == len(list(model.parameters()))
    blocks = model.image_tower.net.blocks
    assert [share[id(block.attn.qkv.weight)][0] for block in blocks] == [0.125, 0.25, 0.5]
    assert share[id(model.image_tower.net.pos_embed)][0] == 0.0625
    assert [share[id(block.linear1.weight)][0] for block in model.text_tower.blocks] == [0.25, 0.5]
    assert share[id(model.text_tower.embedding.weight)][0] == 0.125
    assert {share[id(p)][0] for p in (*model.head.parameters(), model.log_scale)} == {1.0}
    assert share[id(blocks[0].attn.qkv.weight)][1] == 0.2
    assert share[id(blocks[0].attn.qkv.bias)][1] == 0.0
    assert {one for one, _ in rates(model, Optimiser()).values()} == {1.0}


@pytest.mark.parametrize("name", ["pacl", "flair", "llip", "mgca", "cosmos", "fusion", "sparc", "holistic", "clip"])
def test_what_is_new_learns_at_a_rate_of_its_own(dataset, name):
    model = make_model(dataset, **DEEP)
    before = {id(p) for p in model.parameters()}
    adapt_model(model, make_recipe(name))
    share = {key: rate for key, (rate, _) in rates(model, Optimiser(head_lr=7.0)).items()}
    base = {id(p) for side in (model.head.image, model.head.text) for p in side.parameters()}
    new = {id(p) for p in model.parameters() if p.requires_grad} - before - base - {id(model.bias)}
    assert {key for key, rate in share.items() if rate == 7.0} == new
    assert {rate for key, rate in share.items() if key not in new} <= {1.0}
    assert bool(new) == (name != "clip")
    assert {rate for rate, _ in rates(model, Optimiser()).values()} == {1.0}
    with_decay = rates(model, Optimiser(head_lr=7.0, layer_decay=0.5))
    assert {with_decay[key][0] for key in new} <= {7.0}


def test_copies_of_a_class_token_are_not_new(dataset):
    model = make_model(dataset, **DEEP, pool="class")
    adapt_model(model, make_recipe("llip", "--model.head_settings.mixtures", "3"))
    share = rates(model, Optimiser(head_lr=7.0))
    assert share[id(model.image_tower.branches.tokens_HV)][0] == 1.0
    assert share[id(model.head.query.weight)][0] == 7.0


def test_settings_of_another_head_are_refused(dataset):
    recipe = make_recipe("clip", "--model.head_settings.prototypes", "9")
    with pytest.raises(UserError, match=r'model\.head of recipe clip does not fit: .*"prototypes": it belongs to mgca'):
        adapt_model(make_model(dataset), recipe)
    with pytest.raises(UserError, match=r"head_settings\.branches = 3 .* model\.branches"):
        make_recipe("holistic", "--model.head_settings.branches", "3")


@pytest.mark.parametrize(
    ("name", "words", "scale", "bias"),
    [
        ("siglip", (), 10.0, -10.0),
        ("flair", (), 1 / 0.07, -10.0),
        ("siglip", ("--model.sigmoid_scale", "5", "--model.sigmoid_bias", "-3"), 5.0, -3.0),
    ],
)
def test_where_a_sigmoid_model_begins_is_the_recipes_affair(dataset, name, words, scale, bias):
    model = make_model(dataset)
    adapt_model(model, make_recipe(name, *words))
    assert model.scale.item() == pytest.approx(scale, rel=1e-5)
    assert model.bias.item() == bias


def test_a_share_of_the_rate_is_a_share_of_the_step(dataset):
    moved = {}
    for decay in (1.0, 0.5):
        recipe = make_recipe("clip", "--optimiser.layer_decay", str(decay), "--optimiser.weight_decay", "0")
        model = make_model(dataset, **DEEP)
        (batch,) = batches_of(dataset, recipe, model, 1)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimiser = make_optimiser(model, recipe.optimiser)
        take_step(Encoder(model), Objective(recipe.terms), optimiser, batch, step=0, lr=1e-2)
        moved[decay] = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    for name, share in (("image_tower.net.blocks.0.mlp.fc1.weight", 0.125), ("head.image.weight", 1.0)):
        torch.testing.assert_close(moved[0.5][name], share * moved[1.0][name], rtol=1e-3, atol=1e-6)
        assert moved[1.0][name].abs().max() > 1e-3


# ---- recomputed blocks ----------------------------------------------------------------------------------------------------------


class Kept:
    """Bytes that the graph keeps while it is open."""

    def __enter__(self):
        self.bytes = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.note, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *_):
        self.hooks.__exit__(*_)

    def note(self, tensor):
        self.bytes += tensor.numel() * tensor.element_size()
        return tensor


@pytest.mark.parametrize("name", ["sparc", "holistic", "flair"])
def test_recomputed_blocks_give_the_same_bits_and_keep_less(dataset, name):
    seen = []
    for wanted in (False, True):
        recipe = make_recipe(name)
        model = make_model(dataset, **DEEP)
        adapt_model(model, recipe)
        for block in model.text_tower.blocks:
            block.dropout1.p = 0.2
        (batch,) = batches_of(dataset, recipe, model.train(), 1)
        torch.manual_seed(3)
        with recomputed(model, wanted), Kept() as kept:
            image, text, scale, bias = Encoder(model)(batch, Objective(recipe.terms).needs)
        Objective(recipe.terms)(image, text, batch.pairing, scale, bias).value.backward()
        assert all("forward" not in vars(module) for module in model.modules())
        seen.append((kept.bytes, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (much, one), (little, other) = seen
    assert little < 0.7 * much
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_towers_of_every_kind_say_what_their_blocks_are(dataset):
    clip = open_clip.CustomTextCLIP(
        8,
        {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8},
        {"context_length": 12, "vocab_size": 64, "width": 16, "heads": 2, "layers": 3},
    )
    assert len(OpenClipImageTower(clip.visual, {}).transformer_blocks()) == 2
    assert len(OpenClipTextTower(clip.text, {}).transformer_blocks()) == 3
    model = make_model(dataset)
    assert (len(model.image_tower.transformer_blocks()), model.text_tower.transformer_blocks()) == (1, [])
    model.image_tower = timm_tower("mobilenetv3_small_050", 32)
    assert model.image_tower.transformer_blocks() == []
    model.train()
    pixels = torch.rand(2, 3, 32, 32)
    wanted = model.image_tower(pixels).pooled_BV
    with Kept() as plain:
        model.image_tower(pixels)
    with recomputed(model), Kept() as kept:
        found = model.image_tower(pixels).pooled_BV
    assert torch.equal(found, wanted)
    assert kept.bytes < 0.5 * plain.bytes
    assert not model.image_tower.net.grad_checkpointing


def test_a_run_that_recomputes_is_the_same_run(dataset, tmp_path):
    folders = []
    for wanted in ("false", "true"):
        recipe = make_recipe("wholegrain", "--optimiser.steps", "3", "--optimiser.recompute", wanted)
        folders.append(run(dataset, tmp_path / wanted, recipe, make_model(dataset, **DEEP)))
    one, other = (load_model(folder).state_dict() for folder in folders)
    assert all(torch.equal(one[name], other[name]) for name in one)


# ---- fp16 -----------------------------------------------------------------------------------------------------------------------


def test_fp16_is_refused_where_there_is_no_cuda(dataset, tmp_path):
    with pytest.raises(UserError, match=r'"fp16", which needs a CUDA device.*use bf16 or fp32'):
        run(dataset, tmp_path / "run", make_recipe("clip", "--optimiser.precision", "fp16"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("micro", [0, 3])
def test_a_scaler_halves_its_factor_until_the_gradients_fit(dataset, micro):
    """The scaler of a CPU, at a factor that fp16's range cannot hold at first."""
    recipe, model = make_recipe("clip"), make_model(dataset)
    objective, optimiser = Objective(recipe.terms), make_optimiser(model, recipe.optimiser)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    norms, factors = [], []
    for step, batch in enumerate(list(batches_of(dataset, recipe, model, 3)) * 8):
        outcome = take_step(
            *(Encoder(model), objective, optimiser, batch),
            **{"step": step, "lr": 1e-3, "options": StepOptions(precision="fp16", scaler=scaler, micro_batch=micro)},
        )
        if not math.isfinite(outcome.grad_norm):
            assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
        norms.append(outcome.grad_norm)
        factors.append(scaler.get_scale())
        if math.isfinite(outcome.grad_norm):
            break
    assert not math.isfinite(norms[0])
    assert math.isfinite(norms[-1])
    assert factors[0] == 2.0**23
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    exact = make_model(dataset)
    plain = take_step(Encoder(exact), Objective(recipe.terms), make_optimiser(exact, recipe.optimiser), batch, step=0, lr=1e-3)
    assert norms[-1] == pytest.approx(plain.grad_norm, rel=0.05)


# ---- losses that are not finite --------------------------------------------------------------------------------------------------


def poison(model, steps):
    """Makes the loss of these steps not a number, by way of the image tower's output in training."""
    calls = iter(range(1000))

    def spoil(tower, _, raw):
        factor = math.nan if tower.training and next(calls) in steps else 1.0
        return type(raw)(raw.pooled_BV * factor, raw.patches_BPV)

    model.image_tower.register_forward_hook(spoil)
    return model


def test_a_step_that_is_not_finite_is_left_out_on_request(dataset, tmp_path):
    recipe = make_recipe("ce_clip", "--optimiser.steps", "6", "--optimiser.skip_nonfinite", "true")
    taken = []
    trained = run(dataset, tmp_path / "run", recipe, poison(make_model(dataset), {2, 3}), on_step=lambda o: taken.append(o.step))
    assert taken == [0, 1, 4, 5]
    assert all(value.isfinite().all() for value in load_model(trained).state_dict().values())
    for step in (2, 3):
        noted = json.loads((tmp_path / "run" / f"nonfinite-{step}.json").read_text())
        assert (noted["step"], len(noted["keys"])) == (step, 8)
        assert noted["texts"]
    lines = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == taken


def test_too_many_in_succession_stop_all_the_same(dataset, tmp_path):
    recipe = make_recipe("clip", "--optimiser.steps", "20", "--optimiser.skip_nonfinite", "true")
    with pytest.raises(UserError, match="not a finite number at step 12"):
        run(dataset, tmp_path / "run", recipe, poison(make_model(dataset), set(range(2, 20))))
    assert (tmp_path / "run" / "nonfinite.json").is_file()


def test_the_carried_state_is_that_before_the_step(dataset):
    recipe, model = make_recipe("ce_clip"), make_model(dataset)
    objective, optimiser = Objective(recipe.terms), make_optimiser(model, recipe.optimiser)
    one, two = batches_of(dataset, recipe, model, 2)
    take_step(Encoder(model), objective, optimiser, one, step=0, lr=1e-3)
    kept = {name: value.clone() for name, value in objective.state_dict().items()}
    assert kept
    with torch.no_grad():
        model.head.image.weight.fill_(math.inf)
    with pytest.raises(NonFiniteLossError):
        take_step(Encoder(model), objective, optimiser, two, step=1, lr=1e-3)
    assert all(torch.equal(value, kept[name]) for name, value in objective.state_dict().items())
