"""Adapters: the base at the start, small in checkpoints, merged at the end, exact on resume."""

import copy

import pytest
import torch
from tiny_training import make_model, make_recipe, train
from torch import nn

from wholegrain.errors import UserError
from wholegrain.towers.io import load_model, save_model
from wholegrain.towers.lora import LowRank, adapters, plain_state
from wholegrain.training.run import adapt_model
from wholegrain.training.step import make_optimiser

LORA = ["--model.lora.rank", "2", "--model.lora.alpha", "4"]
DEEP = {"image_layers": 2, "text_layers": 2, "reader": "transformer"}


def adapted(dataset, *options):
    model, recipe = make_model(dataset, **DEEP), make_recipe("clip", *LORA, *options)
    adapt_model(model, recipe)
    return model, recipe


def moved(model, scale=0.3):
    """Adapters away from zero, as training leaves them."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for adapter in adapters(model):
            adapter.up_OR.copy_(scale * torch.randn(adapter.up_OR.shape, generator=random))
    return model


def seen(model):
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=random)
    tokens = model.tokenizer.encode(["red beside blue", "a green half"])
    model.eval()
    with torch.no_grad():
        return torch.cat([model.encode_images(pixels).pooled_BD, model.encode_texts(tokens.tokens_NL, tokens.length_N).pooled_ND])


def run(dataset, folder, *options, model=None, **kwargs):
    recipe = make_recipe("clip", *LORA, "--saving.every", "5", *options)
    return train(recipe, dataset, model or make_model(dataset, **DEEP), folder, device="cpu", quiet=True, **kwargs)


def same(one, other):
    a, b = load_model(one).state_dict(), load_model(other).state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_closed_form():
    weight, random = torch.randn(5, 3), torch.Generator().manual_seed(0)
    adapter = LowRank(weight, 2, 8.0, random)
    assert torch.equal(adapter(weight), weight)
    nn.init.normal_(adapter.up_OR)
    torch.testing.assert_close(adapter(weight), weight + 4 * adapter.up_OR @ adapter.down_RI)
    with torch.autocast("cpu", torch.bfloat16):
        assert adapter(weight).dtype == torch.float32
    assert adapter.down_RI.abs().max().item() <= 1 / 3**0.5


def test_the_first_step_sees_the_base_and_twice_is_as_good_as_once(dataset):
    base = make_model(dataset, **DEEP)
    model, recipe = adapted(dataset)
    assert torch.equal(seen(model), seen(base))
    moved(model)
    assert not torch.allclose(seen(model), seen(base), atol=1e-3)
    before, count = seen(model), len(adapters(model))
    adapt_model(model, recipe)
    assert len(adapters(model)) == count == 4 * (2 + 2)  # four matrices a block, two blocks a tower
    assert torch.equal(seen(model), before)


def test_adapters_head_and_temperature_are_trained_and_nothing_else(dataset):
    model, _ = adapted(dataset)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".parametrizations." in name or name.startswith("head.") or name == "log_scale" for name in trained)
    features = model.encode_images(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).pooled_BD
    features.sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} <= trained
    attention, _ = adapted(dataset, "--model.lora.parts", '["attention"]', "--model.lora.towers", '["text"]')
    assert len(adapters(attention)) == len(adapters(attention.text_tower)) == 2 * 2
    assert all(parameter.requires_grad for parameter in attention.image_tower.parameters())
    groups = make_optimiser(model, make_recipe("clip", "--optimiser.layer_decay", "0.5").optimiser).param_groups
    share = {id(p): group["lr_share"] for group in groups for p in group["params"]}
    blocks = model.image_tower.net.blocks
    assert [share[id(block.attn.qkv.parametrizations.weight[0].up_OR)] for block in blocks] == [0.25, 0.5]


def test_it_is_merged_when_saved(dataset, tmp_path):
    model = moved(adapted(dataset)[0])
    save_model(model, tmp_path / "m")
    plain = load_model(tmp_path / "m")
    assert not adapters(plain)
    assert plain.state_dict().keys() == make_model(dataset, **DEEP).state_dict().keys() == plain_state(model).keys()
    torch.testing.assert_close(seen(plain), seen(model), rtol=1e-6, atol=1e-6)
    assert adapters(model)  # saving changes nothing
    twin = copy.deepcopy(model)
    assert torch.equal(seen(twin), seen(model))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--teacher.kind", "ema", "--teacher.keep", "teacher", "--teacher.momentum", "0.5", "--optimiser.layer_decay", "0.7"],
        ["--optimiser.micro_batch", "4", "--optimiser.recompute", "true"],
    ],
)
def test_a_killed_run_resumes_bit_for_bit(dataset, tmp_path, options):
    class KilledError(Exception):
        pass

    def kill(outcome):
        if outcome.step == 7:
            raise KilledError

    score = {"evaluate": lambda model: {"x": 1.0}, **({} if not options else {"evaluate": None})}
    run(dataset, tmp_path / "whole", *options, **score)
    with pytest.raises(KilledError):
        run(dataset, tmp_path / "cut", *options, on_step=kill, **score)
    run(dataset, tmp_path / "cut", *options, resume=True, model=load_model(tmp_path / "cut" / "model"), **score)
    same(tmp_path / "whole", tmp_path / "cut")
    if (tmp_path / "whole" / "last").exists():
        same(tmp_path / "whole" / "last", tmp_path / "cut" / "last")
    start, end = (load_model(tmp_path / "whole" / name).state_dict() for name in ("start", "last" if not options else "model"))
    assert not torch.equal(start["image_tower.net.blocks.0.attn.qkv.weight"], end["image_tower.net.blocks.0.attn.qkv.weight"])
    assert torch.equal(start["image_tower.net.pos_embed"], end["image_tower.net.pos_embed"])


def test_micro_batches_give_the_same_step(dataset, tmp_path):
    run(dataset, tmp_path / "a", "--optimiser.steps", "3")
    run(dataset, tmp_path / "b", "--optimiser.steps", "3", "--optimiser.micro_batch", "4")
    one, other = (load_model(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.allclose(one[name], other[name], atol=2e-5) for name in one)


def test_checkpoints_hold_adapters_and_not_the_base(dataset, tmp_path):
    wide = {**DEEP, "image_width": 64, "text_width": 64}
    run(dataset, tmp_path / "lora", model=make_model(dataset, **wide))
    train(make_recipe("clip"), dataset, make_model(dataset, **wide), tmp_path / "full", device="cpu", quiet=True)
    sizes = [next((tmp_path / name).glob("checkpoints/*/state.safetensors")).stat().st_size for name in ("lora", "full")]
    assert sizes[0] < 0.25 * sizes[1]


def test_what_cannot_have_adapters_is_refused(dataset):
    with pytest.raises(UserError, match=r"tower of transformer blocks.*model\.lora\.towers"):
        adapt_model(make_model(dataset), make_recipe("clip", *LORA))  # a recurrent reader
    with pytest.raises(UserError, match="tune_image"):
        make_recipe("clip", *LORA, "--model.tune_image", "none")
    with pytest.raises(UserError, match="shard"):
        make_recipe("clip", *LORA, "--optimiser.shard", "true")
