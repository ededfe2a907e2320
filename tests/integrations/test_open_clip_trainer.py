"""Our losses inside open_clip's own training step: the same gradients as its loss, at any number of processes."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import gloo
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.integrations.open_clip_trainer import OpenClipLoss, with_tokens
from wholegrain.losses.cmr import CmrLoss
from wholegrain.losses.negclip import NegclipLoss
from wholegrain.losses.sparc import SparcLoss
from wholegrain.objectives.schema import Term

open_clip = pytest.importorskip("open_clip")
SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}
SPARC = [Term("clip", weight=0.5), Term("sparc")]
END = 49
TASKS = hasattr(open_clip, "create_task")
"""open_clip 4 trains a task, which holds model and loss; open_clip 3 takes both."""


def small(custom: bool = False, seed: int = 0, **more) -> nn.Module:
    torch.manual_seed(seed)
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    return kind(**SMALL, output_dict=True, **more).double()


def batches(count: int, images: int, texts: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images, and ``texts`` captions of unequal lengths for each."""
    draw = torch.Generator().manual_seed(7)
    made = []
    for _ in range(count):
        rows = torch.randint(1, END, (images, texts, 8), generator=draw)
        end = torch.randint(2, 8, (images, texts, 1), generator=draw)
        place = torch.arange(8)
        rows = torch.where(place == end, END, torch.where(place > end, 0, rows))
        made.append((torch.randn(images, 3, 16, 16, generator=draw, dtype=torch.float64), rows.squeeze(1)))
    return made


def epoch(
    model: nn.Module, loss: nn.Module, data: list, accum: int = 1, rank: int = 0, world: int = 1
) -> dict[str, torch.Tensor]:
    """open_clip's training of one epoch by SGD; the parameters afterwards."""
    from open_clip_train import train

    if TASKS:
        data = [dict(zip(("image", "text"), batch, strict=True)) for batch in data]
    loader = type("Loader", (list,), {"num_batches": len(data), "num_samples": 4})(data)
    given = {"train": SimpleNamespace(set_epoch=lambda _: None, dataloader=loader)}
    args = SimpleNamespace(
        device="cpu",
        precision="fp32",
        distill=False,
        accum_freq=accum,
        skip_scheduler=True,
        horovod=False,
        distributed=False,  # of open_clip 4: no mean over processes of what is logged
        grad_clip_norm=None,
        rank=rank,
        local_rank=rank,
        log_local=False,
        world_size=world,
        batch_size=4,
        log_every_n_steps=1,
        wandb=False,
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    old, train.get_input_dtype = train.get_input_dtype, lambda _: torch.float64
    try:
        if TASKS:
            train.train_one_epoch(train.TrainState(task_of(model, loss), optimiser), given, args)
        else:
            train.train_one_epoch(model, given, loss, 0, optimiser, None, None, None, args)
    finally:
        train.get_input_dtype = old
    return {name.removeprefix("module."): p.detach().clone() for name, p in model.named_parameters()}


def task_of(model: nn.Module, loss: nn.Module) -> nn.Module:
    """How open_clip 4 takes a loss."""
    from open_clip.task import CLIPTask

    return CLIPTask(model, loss=loss)


def assert_same(got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            got[name], expected[name], rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )


def clip_loss(**settings):
    from open_clip.loss import ClipLoss

    return ClipLoss(**settings)


@pytest.mark.parametrize("accum", [1, 2])
def test_clip_trains_as_open_clips_own_loss(accum):
    data = batches(2, 4)
    expected = epoch(small(), clip_loss(), data, accum)
    assert_same(epoch(small(), OpenClipLoss("clip"), data, accum), expected)
    assert not torch.equal(expected["logit_scale"], small().logit_scale)


def test_siglip_trains_as_open_clips_own_loss():
    from open_clip.loss import SigLipLoss

    data = batches(2, 4)
    expected = epoch(small(True, init_logit_bias=-2.0), SigLipLoss(), data)
    assert_same(epoch(small(True, init_logit_bias=-2.0), OpenClipLoss("siglip"), data), expected)


def in_processes(rank, group, loss, parts, plain):
    """Training under DDP with this process's part of every batch, by ``loss`` or by open_clip's own."""
    import torch.distributed as dist

    world = dist.get_world_size(group)
    if plain:
        ours = clip_loss(local_loss=True, gather_with_grad=True, rank=rank, world_size=world)
    else:
        ours = OpenClipLoss(loss, group=group)
    model = nn.parallel.DistributedDataParallel(with_tokens(small()) if not plain else small(), process_group=group)
    return epoch(model, ours, parts, rank=rank, world=world)


def split(data: list, world: int) -> list[list]:
    return [[tuple(x.chunk(world)[rank] for x in batch) for batch in data] for rank in range(world)]


@pytest.mark.slow
@pytest.mark.parametrize(("world", "loss"), [(2, "clip"), (2, SPARC)])
def test_processes_train_as_one(world, loss):
    data = batches(2, 4)
    alone = epoch(with_tokens(small()), OpenClipLoss(loss), data)
    for found in gloo.run(world, in_processes, [(loss, parts, False) for parts in split(data, world)]):
        assert_same(found, alone)


@pytest.mark.slow
def test_open_clips_own_loss_in_processes_gives_the_same():
    """It gathers over all processes of the pool."""
    data, world = batches(1, 8), gloo.MOST
    alone = epoch(small(), OpenClipLoss("clip"), data)
    for found in gloo.run(world, in_processes, [("clip", parts, True) for parts in split(data, world)]):
        assert_same(found, alone)


def global_values(rank, group, image, text):
    return OpenClipLoss("clip", group=group)(image, text, torch.tensor(5.0), output_dict=True)["clip_loss"].item()


def test_every_process_reports_the_global_loss():
    image, text = torch.randn(6, 5), torch.randn(6, 5)
    alone = OpenClipLoss("clip")(image, text, torch.tensor(5.0)).item()
    parts = [(image[:3], text[:3]), (image[3:], text[3:])]
    assert gloo.run(2, global_values, parts) == pytest.approx([alone, alone], rel=1e-5)


def test_texts_follow_their_image_each_with_its_negatives():
    image, text = torch.randn(3, 5), torch.randn(12, 5)
    place = torch.arange(12)
    present = place != 5  # the second negative of the second caption... of image 1: its caption is 4
    pairing = Pairing(
        place // 4,
        torch.where(place % 2 == 0, -1, place - 1),
        place % 4 // 2,
        place % 2 - 1,
        place,
        torch.arange(3),
        ("web", "detail"),
        ("swap",),
    )
    kept = present.nonzero().squeeze(1)
    scale = torch.tensor(7.0)
    direct = [
        loss(ImageFeatures(image), TextFeatures(text[kept]), pairing.select_texts(kept), scale).value
        for loss in (NegclipLoss(), CmrLoss())
    ]
    terms = [Term("negclip"), Term("cmr"), Term("clip", roles=("detail",))]
    found = OpenClipLoss(terms, captions=2, negatives=1, roles=("web", "detail"), kinds=("swap",))
    losses = found(image, text, scale, text_present=present, output_dict=True)
    torch.testing.assert_close([losses["negclip_loss"], losses["cmr_loss"]], direct)
    detail = OpenClipLoss("clip")(image, text[2::4], scale)
    torch.testing.assert_close(losses["clip_loss"], detail)


def test_carried_state_is_in_the_state_dict():
    terms = [Term("cmr")]
    first, second = (OpenClipLoss(terms, negatives=1) for _ in range(2))
    image = torch.eye(4)
    foils = image + torch.tensor([0.2, 0.4, 0.6, 0.8])[:, None]
    text = torch.stack([image, foils], 1).flatten(0, 1)
    before = first(image, text, torch.tensor(9.0)).item()
    second.load_state_dict(first.state_dict())
    after = second(image, text, torch.tensor(9.0)).item()
    assert after == first(image, text, torch.tensor(9.0)).item() > before, "the second step's margin came from the first"


@pytest.mark.parametrize("custom", [False, True])
def test_tokens_are_the_towers_last_ones(custom):
    plain, model = small(custom), with_tokens(small(custom))
    images, texts = batches(1, 3)[0]
    found = model.train()(images, texts)
    expected = plain.forward_intermediates(
        images, texts, image_indices=1, text_indices=1, normalize_intermediates=True, image_output_fmt="NLC", normalize=True
    )
    torch.testing.assert_close(found["image_features"], expected["image_features"])
    torch.testing.assert_close(found["text_features"], expected["text_features"])
    torch.testing.assert_close(found["image_patches"], expected["image_intermediates"][-1] @ plain.visual.proj)
    projection = (plain.text if custom else plain).text_projection
    torch.testing.assert_close(found["text_tokens"], expected["text_intermediates"][-1] @ projection)
    last = found["text_mask"].sum(1) - 1
    assert texts[torch.arange(3), last].tolist() == [END] * 3
    torch.testing.assert_close(normalize(found["text_tokens"][torch.arange(3), last], dim=-1), found["text_features"])
    assert found["text_present"].all()


def test_evaluation_and_weights_stay_as_they_were():
    plain, model = small().eval(), with_tokens(small()).eval()
    images, texts = batches(1, 3)[0]
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert model(images, texts).keys() == plain(images, texts).keys()
    assert torch.equal(model(image=images)["image_features"], plain(image=images)["image_features"])
    assert torch.equal(model.encode_text(texts), plain.encode_text(texts))


def test_equal_texts_are_known_and_zero_rows_are_absent():
    model = with_tokens(small()).train()
    images, texts = batches(1, 3, texts=2)[0]
    texts[2] = texts[0]
    texts[1, 1] = 0
    found = model(images, texts)
    ids = found["text_ids"].tolist()
    assert ids[4:] == ids[:2]
    assert len(set(ids)) == 4
    assert found["text_present"].tolist() == [True, True, True, False, True, True]
    loss = OpenClipLoss("clip", captions=2)
    true = loss(**found)
    ignored = loss(**{name: x for name, x in found.items() if name != "text_ids"})
    assert true.item() != ignored.item(), "a text known to be true of two images is no negative of either"


def test_sparc_in_open_clips_step_is_sparc(caplog):
    data = batches(1, 4)
    model = with_tokens(small()).train()
    found = model(*data[0])
    image = ImageFeatures(found["image_features"], None, found["image_patches"], (2, 2))
    text = TextFeatures(found["text_features"], found["text_tokens"], found["text_mask"])
    expected = SparcLoss()(image, text, Pairing.one_to_one(4), found["logit_scale"]).value.item()
    with caplog.at_level(logging.INFO):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        after = epoch(model, OpenClipLoss(SPARC), data)
    assert f"Sparc_loss: {expected:#.5g}" in caplog.text
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("visual"))


def test_the_trainers_own_main(tmp_path, monkeypatch, caplog):
    """The lines of docs/open_clip.md: the command-line trainer with two of its names replaced."""
    import json

    trainer = pytest.importorskip("open_clip_train.main", reason="open_clip's trainer needs open_clip_torch[training]")
    config = {
        "embed_dim": 16,
        "vision_cfg": SMALL["vision_cfg"],
        "text_cfg": {**SMALL["text_cfg"], "vocab_size": 49408, "context_length": 16},
    }
    (tmp_path / "grain-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "grain-tiny.json")
    make = trainer.create_model_and_transforms

    def create(*args, **kwargs):
        model, *preprocess = make(*args, **kwargs)
        return (with_tokens(model), *preprocess)

    monkeypatch.setattr(trainer, "create_model_and_transforms", create)
    if TASKS:
        monkeypatch.setattr(trainer, "create_task", lambda args, model, **_: task_of(model, OpenClipLoss(SPARC)))
    else:
        monkeypatch.setattr(trainer, "create_loss", lambda args: OpenClipLoss(SPARC))
    words = (
        "--dataset-type synthetic --train-num-samples 8 --batch-size 4 --epochs 1 --workers 0 --model grain-tiny --precision fp32"
    )
    monkeypatch.setattr(trainer, "setup_logging", lambda *_: None)  # it would set the level of every logger of the process
    with caplog.at_level(logging.INFO):
        trainer.main([*words.split(), "--logs", str(tmp_path), "--name", "run", "--device", "cpu"])
    assert "Sparc_loss" in caplog.text
    assert "Clip_loss" in caplog.text
    assert (tmp_path / "run" / "checkpoints" / "epoch_1.pt").exists()


def test_what_cannot_be_had_is_said():
    with pytest.raises(UserError, match='needs "branches", which models of open_clip do not give'):
        OpenClipLoss("holistic")
    with pytest.raises(UserError, match="negatives"):
        OpenClipLoss([Term("negclip")])
    image, text, scale = torch.eye(3), torch.eye(3), torch.tensor(5.0)
    with pytest.raises(UserError, match=r"model = with_tokens\(model\)"):
        OpenClipLoss(SPARC)(image, text, scale)
    with pytest.raises(UserError, match="--siglip"):
        OpenClipLoss("siglip")(image, text, scale)
    with pytest.raises(UserError, match="3 images and 3 texts, where 6 are expected"):
        OpenClipLoss("clip", captions=2)(image, text, scale)
    with pytest.raises(UserError, match="output_dict=True"):
        with_tokens(open_clip.CLIP(**SMALL))
    with pytest.raises(UserError, match="timm, ResNet, CoCa"):
        with_tokens(nn.Linear(2, 2))
