"""Patch dropout: which patches, what towers make of them, and runs that repeat themselves."""

import math

import numpy as np
import open_clip
import pytest
import torch
from tiny_training import make_model, make_recipe, train

from wholegrain.errors import UserError
from wholegrain.towers.io import load_model
from wholegrain.towers.sources.open_clip import OpenClipImageTower
from wholegrain.towers.sources.timm import timm_tower
from wholegrain.training.memory.patch_dropout import PatchDropout, make_dropping
from wholegrain.training.run import adapt_model

DROP = ["--model.patch_dropout", "0.5", "--saving.every", "5"]
OPEN = {"sight": 0, "places": "added", "patch": 4}  # patches that all see each other


def run(dataset, folder, *options, name="clip", **kwargs):
    model = kwargs.pop("model", None) or make_model(dataset, **OPEN)
    return train(make_recipe(name, *DROP, *options), dataset, model, folder, device="cpu", quiet=True, **kwargs)


def same(one, other):
    a, b = load_model(one).state_dict(), load_model(other).state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_patches_are_a_function_of_seed_step_image_and_view():
    dropping = PatchDropout(3, 0.75, 196)
    keys = [f"{n:020x}" for n in range(200)]
    kept = dropping.kept(keys, 2)
    assert kept.shape == (400, 49)
    assert bool((kept.diff(dim=1) > 0).all())
    assert int(kept.min()) >= 0
    assert int(kept.max()) < 196
    assert torch.equal(dropping.kept(keys[50:60]), kept[50:60])  # a micro-batch, or another process
    others = [PatchDropout(4, 0.75, 196).kept(keys), kept[200:]]
    dropping.step = 1
    for other in (*others, dropping.kept(keys)):
        assert not torch.equal(other, kept[:200])
    # every patch has the same chance: a quarter of 400, within five standard deviations
    counts = np.bincount(kept.flatten().numpy(), minlength=196)
    assert np.abs(counts - 100).max() < 5 * math.sqrt(400 * 0.25 * 0.75)
    assert PatchDropout(0, 0.999, 16).keep == 1


def towers():
    sizes = {"image_size": 16, "patch_size": 4, "width": 16, "layers": 2, "heads": 2, "mlp_ratio": 2.0, "output_dim": 8}
    for pool in ("tok", "avg"):
        yield OpenClipImageTower(open_clip.transformer.VisionTransformer(**sizes, pool_type=pool), {})
    kwargs = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "img_size": 16}
    for more in ({}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 2}):
        yield timm_tower("vit_tiny_patch16_224", 16, {**kwargs, **more})


@pytest.mark.parametrize("tower", towers())
def test_a_tower_sees_the_kept_patches_and_no_others(tower):
    tower.eval()
    assert tower.droppable == 16
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, 16, 16, generator=random)
    everything = torch.arange(16).expand(3, -1)
    with torch.no_grad():
        torch.testing.assert_close(
            tower(pixels, frozenset(), everything).pooled_BV, tower(pixels).pooled_BV, rtol=1e-5, atol=1e-5
        )
        kept = torch.tensor([[0, 5, 10], [1, 2, 3], [7, 8, 15]])
        seen = tower(pixels, frozenset(), kept).pooled_BV
        hidden = pixels.clone()
        for image, patches in enumerate(kept.tolist()):
            for patch in set(range(16)) - set(patches):
                row, column = divmod(patch, 4)
                hidden[image, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 9.0
        torch.testing.assert_close(tower(hidden, frozenset(), kept).pooled_BV, seen)
        assert not torch.allclose(tower(hidden).pooled_BV, tower(pixels).pooled_BV, atol=1e-3)
        assert not torch.allclose(seen, tower(pixels).pooled_BV, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--teacher.kind", "ema"], ["--data.views", "[{ count = 1, crop_scale = [0.5, 1.0] }]"]])
def test_runs_repeat_and_resume_bit_for_bit(dataset, tmp_path, options):
    class KilledError(Exception):
        pass

    def kill(outcome):
        if outcome.step == 7:
            raise KilledError

    run(dataset, tmp_path / "whole", *options)
    run(dataset, tmp_path / "workers", *options, workers=2)
    with pytest.raises(KilledError):
        run(dataset, tmp_path / "cut", *options, on_step=kill)
    run(dataset, tmp_path / "cut", *options, resume=True, model=load_model(tmp_path / "cut" / "model"))
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert same(tmp_path / "whole", tmp_path / "workers")
    run(dataset, tmp_path / "without", *options, "--model.patch_dropout", "0")
    assert not same(tmp_path / "whole", tmp_path / "without")


def test_micro_batches_drop_the_same(dataset, tmp_path):
    run(dataset, tmp_path / "a", "--optimiser.steps", "3")
    run(dataset, tmp_path / "b", "--optimiser.steps", "3", "--optimiser.micro_batch", "4")
    one, other = (load_model(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.allclose(one[name], other[name], atol=2e-5) for name in one)


def test_what_cannot_lose_patches_is_refused(dataset, tmp_path):
    def made(name, *options, **sizes):
        recipe, model = make_recipe(name, *DROP, *options), make_model(dataset, **sizes)
        adapt_model(model, recipe)
        return make_dropping(recipe, model, frozenset({"patches", "tokens"}) if name == "sparc" else frozenset())

    assert made("clip", **OPEN).keep == 8
    with pytest.raises(UserError, match="Vision Transformer of open_clip or timm"):
        made("clip")  # patches that see their neighbours alone
    with pytest.raises(UserError, match="compares patches with words"):
        made("sparc", **OPEN)
    with pytest.raises(UserError, match="not trained"):
        made("clip", "--model.tune_image", "none", **OPEN)
    with pytest.raises(UserError, match="patch_dropout"):
        make_recipe("clip", "--model.patch_dropout", "1.0")
