"""MLP branches: exact start, streams that stay apart, gradients, saving, refusals."""

from __future__ import annotations

import pytest
import torch
from branch_towers import MEAN, PATCHES, PIXELS, TOKEN, timm_vit
from tiny_training import make_dataset, make_model, make_recipe, train

from wholegrain.errors import UserError
from wholegrain.towers import HeadConfig, convert_head, load_model, save_model
from wholegrain.towers.mlp_branches import BranchLinear
from wholegrain.towers.sources.small import SmallConfig, SmallImageTower
from wholegrain.towers.sources.timm import timm_tower

ALL = {**{f"{k}-token": v for k, v in TOKEN.items()}, **{f"{k}-mean": v for k, v in MEAN.items()}}
ALL["small"] = lambda: SmallImageTower(SmallConfig(image_size=32, image_width=32, image_layers=3, heads=2)).eval()


def split(kind: str, count: int = 3, blocks: int = 2):
    torch.manual_seed(0)
    base = ALL[kind]()
    torch.manual_seed(0)
    tower = ALL[kind]()
    tower.load_state_dict(base.state_dict())
    tower.add_mlp_branches(count, blocks)
    return base, tower.eval()


def matrices(tower) -> list[BranchLinear]:
    return [m for m in tower.modules() if isinstance(m, BranchLinear)]


def apart(tower) -> None:
    with torch.no_grad():
        for layer in matrices(tower):
            layer.weight_HVF.add_(torch.randn(layer.weight_HVF.shape, generator=torch.Generator().manual_seed(1)) * 0.2)


@pytest.mark.parametrize("kind", list(ALL))
@pytest.mark.parametrize("blocks", [1, 2])
def test_every_branch_starts_as_the_base(kind, blocks):
    base, tower = split(kind, 3, blocks)
    expected, raw = base(PIXELS, PATCHES), tower(PIXELS, PATCHES)
    assert raw.classes_BHV.shape == (2, 3, base.width)
    torch.testing.assert_close(raw.classes_BHV, expected.pooled_BV[:, None].expand(-1, 3, -1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(raw.patches_BPV, expected.patches_BPV, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(raw.pooled_BV, expected.pooled_BV, rtol=1e-4, atol=1e-5)
    assert raw.grid == expected.grid
    for layer in matrices(tower):
        assert (layer.weight_HVF == layer.weight_HVF[0]).all()


@pytest.mark.parametrize("kind", list(ALL))
def test_a_branch_is_the_base_with_its_own_second_matrices(kind):
    """Branch h of the split tower equals a tower without branches that holds copy h."""
    base, tower = split(kind, 3, 2)
    apart(tower)
    raw = tower(PIXELS, PATCHES)
    names = [n for n, m in base.named_modules() if n.endswith(("mlp.fc2", "mlp.c_proj"))][-2:]
    patches = []
    for h in range(3):
        with torch.no_grad():
            for name, layer in zip(names, matrices(tower), strict=True):
                base.get_submodule(name).weight.copy_(layer.weight_HVF[h])
                base.get_submodule(name).bias.copy_(layer.bias_HV[h])
        alone = base(PIXELS, PATCHES)
        torch.testing.assert_close(raw.classes_BHV[:, h], alone.pooled_BV, rtol=1e-4, atol=1e-5)
        patches.append(alone.patches_BPV)
    torch.testing.assert_close(raw.patches_BPV, torch.stack(patches).mean(0), rtol=1e-4, atol=1e-5)
    assert (raw.classes_BHV[:, 0] - raw.classes_BHV[:, 1]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["timm-token", "open_clip-token", "small"])
def test_a_branch_trains_its_own_copies_and_what_is_shared(kind):
    _, tower = split(kind)
    tower(PIXELS).classes_BHV[:, 1].square().sum().backward()
    for layer in matrices(tower):
        moved = layer.weight_HVF.grad.abs().amax((1, 2))
        assert moved[1] > 0
        assert moved[0] == moved[2] == 0
    tower.zero_grad()
    tower(PIXELS, PATCHES).classes_BHV.square().sum().backward()
    assert [n for n, p in tower.named_parameters() if p.requires_grad and p.grad is None] == []


def test_parameters_and_work_are_as_said():
    base, tower = split("timm-token", count=5, blocks=2)
    width, inner = 32, 128
    added = sum(p.numel() for p in tower.parameters()) - sum(p.numel() for p in base.parameters())
    assert added == 2 * 4 * (inner * width + width)
    seen = []
    tower.net.blocks[-2].block.attn.register_forward_hook(lambda m, given, out: seen.append(len(out)))
    tower.net.blocks[-1].attn.register_forward_hook(lambda m, given, out: seen.append(len(out)))
    tower(PIXELS)
    assert seen == [2, 10]  # the first changed block attends once for all streams


def test_one_branch_is_the_base_and_order_is_by_image():
    base, tower = split("open_clip-token", count=1)
    torch.testing.assert_close(tower(PIXELS).classes_BHV[:, 0], base(PIXELS).pooled_BV, rtol=1e-4, atol=1e-5)
    _, tower = split("open_clip-token", count=3)
    apart(tower)
    torch.testing.assert_close(tower(PIXELS).classes_BHV[1:], tower(PIXELS[1:]).classes_BHV, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["timm-token", "open_clip-token"])
def test_bfloat16_autocast_and_training_mode(kind):
    _, tower = split(kind)
    apart(tower)
    exact = tower(PIXELS).classes_BHV
    with torch.autocast("cpu", torch.bfloat16):
        rough = tower(PIXELS).classes_BHV
    assert torch.nn.functional.cosine_similarity(exact, rough.float(), dim=-1).min() > 0.99
    torch.testing.assert_close(tower.train()(PIXELS).classes_BHV, exact, rtol=1e-4, atol=1e-5)


def test_tuning_the_last_stage_trains_its_copies_alone():
    _, tower = split("timm-token")
    tower.tune("last:1")
    first, last = matrices(tower)
    assert last.weight_HVF.requires_grad
    assert not first.weight_HVF.requires_grad


def test_a_model_with_mlp_branches_trains_saves_and_comes_back(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    model = make_model(dataset)
    wanted = ["--model.branches", "2", "--model.head_settings.branch_blocks", "1", "--optimiser.steps", "2"]
    recipe = make_recipe("holistic_mlp", *wanted, "--terms.many_to_many.settings.roles", '["web", "detail"]')
    train(recipe, dataset, model, tmp_path / "run")
    layer = matrices(model.image_tower)[0]
    assert (layer.weight_HVF[0] - layer.weight_HVF[1]).abs().max() > 0
    save_model(model.eval(), tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    pixels = torch.randint(0, 255, (2, 3, model.preprocess.size, model.preprocess.size), dtype=torch.uint8)
    assert torch.equal(again.encode_images(pixels, PATCHES).branches_BHD, model.encode_images(pixels, PATCHES).branches_BHD)
    assert torch.equal(again.encode_images(pixels, PATCHES).patches_BPD, model.encode_images(pixels, PATCHES).patches_BPD)


def test_refusals(tmp_path):
    with pytest.raises(UserError, match="no Vision Transformer"):
        timm_tower("test_resnet", 64).add_mlp_branches(2)
    tower = timm_vit()
    with pytest.raises(UserError, match="between 1 and 2 blocks"):
        tower.add_mlp_branches(2, 3)
    tower.add_mlp_branches(2, 2)
    for add in (tower.add_mlp_branches, tower.add_branches):
        with pytest.raises(UserError, match="has some"):
            add(2)
    model = make_model(make_dataset(tmp_path / "data"))
    with pytest.raises(UserError, match="tokens are no branches"):
        convert_head(model, HeadConfig("llip", source="mlp"))
    model.image_tower.tune("none")
    with pytest.raises(UserError, match="frozen"):
        convert_head(model, HeadConfig("branches", branches=2, source="mlp"))
