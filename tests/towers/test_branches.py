"""Class-token branches: the attention mask, warm starts, and the released code's +1."""

import math

import pytest
import torch
from branch_towers import MEAN, PATCHES, PIXELS, TOKEN, open_clip_vit, timm_vit

from wholegrain.errors import UserError
from wholegrain.towers.branch_tokens import BranchTokens, branch_mask
from wholegrain.towers.sources.timm import timm_tower


def test_mask_values():
    mask = branch_mask(2, 2, "shared")
    low = -math.log(2)
    expected = torch.tensor([[0, -math.inf, 0, 0], [-math.inf, 0, 0, 0], [low, low, 0, 0], [low, low, 0, 0]])
    torch.testing.assert_close(mask, expected)
    assert branch_mask(2, 1, "all", legacy_plus_one=True).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert branch_mask(1, 1, "none")[1, 0] == -math.inf


def _influence(tower, of: int, on: int) -> float:
    """How much class token ``of`` moves the output of branch ``on``."""
    raw = tower(PIXELS)
    probe = torch.linspace(-1, 1, raw.classes_BHV.shape[-1]).sin()  # LayerNorm fixes the sum and the sum of squares
    (gradient,) = torch.autograd.grad((raw.classes_BHV[:, on] @ probe).sum(), tower.branches.tokens_HV)
    return float(gradient[of].abs().max())


@pytest.mark.parametrize("kind", ["timm", "open_clip"])
@pytest.mark.parametrize("patches_see", ["all", "shared", "none"])
def test_class_tokens_do_not_see_each_other_in_the_first_layer(kind, patches_see):
    tower = TOKEN[kind](depth=1)
    tower.add_branches(3, patches_see=patches_see, noise=0.5)
    assert _influence(tower, 1, 0) == 0.0
    assert _influence(tower, 0, 0) > 1e-4


@pytest.mark.parametrize("kind", ["timm", "open_clip"])
def test_in_legacy_mode_they_do(kind):
    tower = TOKEN[kind](depth=1)
    tower.add_branches(3, legacy_plus_one=True, noise=0.5)
    assert _influence(tower, 1, 0) > 1e-4


@pytest.mark.parametrize("kind", ["timm", "open_clip"])
def test_in_deeper_layers_patches_carry_news_only_if_they_may_look(kind):
    for patches_see, connected in (("all", True), ("none", False)):
        tower = TOKEN[kind](depth=2)
        tower.add_branches(2, patches_see=patches_see, noise=0.5)
        assert (_influence(tower, 1, 0) > 0) == connected


@pytest.mark.parametrize("legacy", [False, True])
def test_inference_gives_what_training_gives(legacy):
    """PyTorch's fused attention of eval mode must respect the additive mask, +1 included."""
    tower = open_clip_vit()
    tower.add_branches(3, legacy_plus_one=legacy, noise=0.5)
    with torch.no_grad():
        fast = tower.eval()(PIXELS, PATCHES)
    slow = tower.train()(PIXELS, PATCHES)
    torch.testing.assert_close(fast.classes_BHV, slow.classes_BHV, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast.patches_BPV, slow.patches_BPV, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", list(TOKEN))
@pytest.mark.parametrize("branches", [1, 4])
def test_copies_of_a_class_token_start_as_the_base(kind, branches):
    base, tower = TOKEN[kind](), TOKEN[kind]()
    tower.add_branches(branches, noise=0.0)
    expected, raw = base(PIXELS, PATCHES), tower(PIXELS, PATCHES)
    assert raw.classes_BHV.shape == (2, branches, 32)
    torch.testing.assert_close(raw.classes_BHV, expected.pooled_BV[:, None].expand(-1, branches, -1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(raw.patches_BPV, expected.patches_BPV, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(raw.pooled_BV, expected.pooled_BV, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", list(TOKEN))
def test_the_papers_rule_does_not_start_as_the_base(kind):
    base, tower = TOKEN[kind](), TOKEN[kind]()
    tower.add_branches(4, patches_see="all", noise=0.0)
    assert (base(PIXELS, PATCHES).patches_BPV - tower(PIXELS, PATCHES).patches_BPV).abs().max() > 1e-4


@pytest.mark.parametrize("kind", list(MEAN))
def test_branches_of_a_mean_pooled_tower_start_as_its_mean_and_leave_patches_alone(kind):
    base, tower, noisy = MEAN[kind](), MEAN[kind](), MEAN[kind]()
    tower.add_branches(3, noise=0.0)
    noisy.add_branches(3, noise=0.1)
    expected, raw, moved = base(PIXELS, PATCHES), tower(PIXELS, PATCHES), noisy(PIXELS, PATCHES)
    torch.testing.assert_close(raw.classes_BHV, expected.pooled_BV[:, None].expand(-1, 3, -1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved.patches_BPV, expected.patches_BPV, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved.pooled_BV, expected.pooled_BV, rtol=1e-4, atol=1e-5)
    assert (moved.classes_BHV[:, 0] - moved.classes_BHV[:, 1]).abs().max() > 1e-3


def test_gates_learn_from_a_start_at_zero():
    tower = MEAN["timm"]()
    tower.add_branches(3, noise=0.0)
    tower(PIXELS).classes_BHV[:, 1].sum().backward()
    gradient = tower.branches.gate_HV.grad
    assert gradient[1].abs().max() > 0
    assert gradient[0].abs().max() == 0


def test_every_trained_parameter_gets_a_gradient():
    """Otherwise DistributedDataParallel stops; the class token that was replaced must be out of it, also after tuning again."""
    for tower in (TOKEN["timm"](), TOKEN["open_clip"]()):
        tower.add_branches(2)
        tower.tune("all")
        tower(PIXELS).classes_BHV.square().sum().backward()
        assert [n for n, p in tower.named_parameters() if p.requires_grad and p.grad is None] == []
        tower.tune("last:1")
        assert tower.branches.tokens_HV.requires_grad


def test_branches_work_in_bfloat16_autocast():
    for tower in (TOKEN["timm"](), TOKEN["open_clip"]()):
        tower.add_branches(3)
        exact = tower(PIXELS).classes_BHV
        with torch.autocast("cpu", torch.bfloat16):
            rough = tower(PIXELS).classes_BHV
        assert torch.nn.functional.cosine_similarity(exact, rough.float(), dim=-1).min() > 0.99


def test_refusals():
    with pytest.raises(UserError, match="readout"):
        timm_tower("test_resnet", 64).add_branches(2)
    tower = timm_vit()
    tower.add_branches(2)
    with pytest.raises(UserError, match="or has some"):
        tower.add_branches(2)
    with pytest.raises(UserError, match="patches_see"):
        BranchTokens(2, 4, None, 8, patches_see="some")
