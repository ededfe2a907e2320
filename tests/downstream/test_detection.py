"""Detection's parts: matching and losses against loops in float64, heads against transformers' and closed forms, targets, annotations' rules."""

import itertools
import math

import numpy as np
import pytest
import torch
from house_models import small
from torch import nn

from wholegrain.downstream.detection.boxes import BoxedPicture, held_out, plain_name, prepared, unit_boxes, vocabulary, without
from wholegrain.downstream.detection.head import OwlHead, OwlSettings, box_bias
from wholegrain.downstream.detection.heat_boxes import HeatBoxes
from wholegrain.downstream.detection.losses import DetectionLoss
from wholegrain.downstream.detection.matching import Costs, corners, cost_matrix, match
from wholegrain.downstream.detection.task import DetectionData, DetectionSettings, DetectionTask
from wholegrain.downstream.settings import load_settings
from wholegrain.downstream.task import Term
from wholegrain.errors import UserError
from wholegrain.evaluation.read_outs.vectors import PooledReadOut
from wholegrain.towers.base import RawImage

RANDOM = np.random.default_rng(0)


def boxes_of(count, seed=0):
    """Centre and size, within the picture."""
    draw = np.random.default_rng(seed)
    size = draw.uniform(0.05, 0.5, (count, 2))
    return torch.from_numpy(np.concatenate([draw.uniform(size / 2, 1 - size / 2), size], 1))


def giou(one, other):
    """Generalised intersection over union of two boxes of centre and size, from its definition."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = one, other
    left, right = max(ax - aw / 2, bx - bw / 2), min(ax + aw / 2, bx + bw / 2)
    top, low = max(ay - ah / 2, by - bh / 2), min(ay + ah / 2, by + bh / 2)
    inside = max(0.0, right - left) * max(0.0, low - top)
    union = aw * ah + bw * bh - inside
    hull = (max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)) * (max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2))
    return inside / union - (hull - union) / hull


def focal(logit, wanted, alpha=0.3, gamma=2.0):
    p = 1 / (1 + math.exp(-logit))
    return -alpha * (1 - p) ** gamma * math.log(p) if wanted else -(1 - alpha) * p**gamma * math.log(1 - p)


# ---- matching ---------------------------------------------------------------------------------------------------------------


def test_giou_of_known_boxes():
    one, same, beside = [0.25, 0.5, 0.5, 1.0], [0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]
    half = [0.25, 0.25, 0.5, 0.5]
    corner = [0.9, 0.9, 0.2, 0.2]
    costs, logits = Costs(name=0.0, box=0.0, giou=1.0), torch.zeros(1, 1).double()
    expected = {"same": (same, 1.0), "touching": (beside, 0.0), "half": (half, 0.5), "far": (corner, -1 + (0.5 + 0.04) / 1.0)}
    for name, (other, value) in expected.items():
        found = -cost_matrix(logits, torch.tensor([one], dtype=torch.float64), torch.tensor([other], dtype=torch.float64), torch.tensor([0]), costs)
        assert found.item() == pytest.approx(value, abs=1e-9), name
        assert giou(one, other) == pytest.approx(value, abs=1e-9), name


def test_costs_against_loops():
    logits, box, true = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double(), boxes_of(6), boxes_of(3, 1)
    label, costs = torch.tensor([2, 0, 2]), Costs(1.5, 5.0, 2.0)
    found = cost_matrix(logits, box, true, label, costs)
    for p, m in itertools.product(range(6), range(3)):
        logit = float(logits[p, label[m]])
        name = focal(logit, True) - focal(logit, False)
        apart = sum(abs(float(a - b)) for a, b in zip(box[p], true[m], strict=True))
        wanted = 1.5 * name + 5.0 * apart - 2.0 * giou(box[p].tolist(), true[m].tolist())
        assert found[p, m].item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (3, 5), (6, 1)])
def test_matching_is_the_cheapest_of_all(shape):
    for _ in range(10):
        cost = torch.from_numpy(RANDOM.normal(size=shape))
        patch, box = match(cost)
        assert len(set(patch.tolist())) == len(set(box.tolist())) == min(shape)
        rows, columns = range(shape[0]), range(shape[1])
        ways = (
            (sum(cost[p, m] for m, p in enumerate(chosen)) for chosen in itertools.permutations(rows, shape[1]))
            if shape[0] >= shape[1]
            else (sum(cost[p, m] for p, m in enumerate(chosen)) for chosen in itertools.permutations(columns, shape[0]))
        )
        assert cost[patch, box].sum().item() == pytest.approx(float(min(ways)))


def test_matching_survives_what_is_no_number():
    patch, box = match(torch.tensor([[math.nan, 1.0], [2.0, math.inf], [0.0, 5.0]]))
    assert dict(zip(box.tolist(), patch.tolist(), strict=True)) == {0: 2, 1: 0}


# ---- losses -----------------------------------------------------------------------------------------------------------------


def batch(seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 5, 4, generator=random).double() * 2
    box = torch.stack([boxes_of(5, seed + n) for n in range(3)])
    real = torch.tensor([[True, True, True, True], [True, True, False, False], [True, True, True, False]])
    true = [boxes_of(2, 7), boxes_of(1, 8), boxes_of(0, 9)]
    labels = [torch.tensor([1, 3]), torch.tensor([0]), torch.zeros(0, dtype=torch.int64)]
    return logits, box, real, true, labels


def by_loops(loss, logits, box, real, true, labels):
    """The three terms' sums, and the number of boxes, by loops over single patches and queries; the matching by trying all."""
    names = apart = overlap = 0.0
    count = 0
    for b in range(len(logits)):
        cost = cost_matrix(logits[b], box[b], true[b], labels[b], loss.costs).tolist() if len(true[b]) else []
        chosen = min(
            itertools.permutations(range(logits.shape[1]), len(true[b])),
            key=lambda way: sum(cost[p][m] for m, p in enumerate(way)),
        )
        finds = {p: int(labels[b][m]) for m, p in enumerate(chosen)}
        queries = [q for q in range(logits.shape[2]) if real[b, q]]
        for p in range(logits.shape[1]):
            row = [float(logits[b, p, q]) for q in queries]
            if loss.kind == "focal":
                names += sum(focal(x, finds.get(p) == q, loss.alpha, loss.gamma) for q, x in zip(queries, row, strict=True))
            else:
                total = math.log(1 + sum(map(math.exp, row)))
                names += total - row[queries.index(finds[p])] if p in finds else loss.nothing * total
        for m, p in enumerate(chosen):
            count += 1
            apart += sum(abs(float(x - y)) for x, y in zip(box[b, p], true[b][m], strict=True))
            overlap += 1 - giou(box[b, p].tolist(), true[b][m].tolist())
    return names, apart, overlap, count


@pytest.mark.parametrize("kind", ["focal", "softmax"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_losses_against_loops(kind, seed):
    loss = DetectionLoss(kind, box_weight=2.0, giou_weight=0.5)
    terms, (names, apart, overlap, count) = loss.terms(*batch(seed)), by_loops(loss, *batch(seed))
    assert terms["names"].total.item() == pytest.approx(names, rel=1e-9)
    assert terms["boxes"].total.item() == pytest.approx(apart, rel=1e-9)
    assert terms["giou"].total.item() == pytest.approx(overlap, rel=1e-6)
    assert [term.count for term in terms.values()] == [count] * 3 == [3] * 3
    assert [term.weight for term in terms.values()] == [1.0, 2.0, 0.5]


@pytest.mark.parametrize("kind", ["focal", "softmax"])
def test_loss_does_not_depend_on_orders(kind):
    loss, (logits, box, real, true, labels) = DetectionLoss(kind), batch()
    whole = value(loss.terms(logits, box, real, true, labels))
    patches, queries = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 3, 1])
    place = queries.argsort()
    changed = {
        "patches": (logits[:, patches], box[:, patches], real, true, labels),
        "boxes": (logits, box, real, [true[0].flip(0), *true[1:]], [labels[0].flip(0), *labels[1:]]),
        "queries": (logits[..., queries], box, real[:, queries], true, [place[label] for label in labels]),
        "pictures": (logits.flip(0), box.flip(0), real.flip(0), true[::-1], labels[::-1]),
    }
    for name, given in changed.items():
        assert value(loss.terms(*given)) == pytest.approx(whole, rel=1e-9), name


def value(terms: dict[str, Term]) -> list[float]:
    return [float(term.total) / term.count for term in terms.values()]


def test_terms_of_parts_add_up_to_those_of_the_batch():
    """What makes two processes take the step of one."""
    loss, (logits, box, real, true, labels) = DetectionLoss(), batch()
    whole = loss.terms(logits, box, real, true, labels)
    parts = [loss.terms(logits[s], box[s], real[s], true[s], labels[s]) for s in (slice(0, 1), slice(1, 3))]
    for name, term in whole.items():
        assert sum(part[name].total.item() for part in parts) == pytest.approx(term.total.item(), rel=1e-12)
        assert sum(part[name].count for part in parts) == term.count


@pytest.mark.parametrize("kind", ["focal", "softmax"])
def test_padding_has_no_part(kind):
    loss, (logits, box, real, true, labels) = DetectionLoss(kind), batch()
    other = torch.where(real[:, None], logits, 50.0)
    assert value(loss.terms(other, box, real, true, labels)) == pytest.approx(value(loss.terms(logits, box, real, true, labels)))


def test_gradients_of_a_batch_without_boxes_are_finite():
    logits, box, real, _, _ = batch()
    logits.requires_grad_(), box.requires_grad_()
    nothing = [torch.zeros(0, 4).double()] * 3, [torch.zeros(0, dtype=torch.int64)] * 3
    terms = DetectionLoss().terms(logits, box, real, *nothing)
    assert [term.count for term in terms.values()] == [0.0] * 3
    sum(term.total for term in terms.values()).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0
    assert box.grad.abs().sum() == 0


# ---- heads ------------------------------------------------------------------------------------------------------------------


def raw_of(width=12, grid=(3, 4), count=2):
    patches = torch.randn(count, grid[0] * grid[1], width, generator=torch.Generator().manual_seed(3))
    return RawImage(patches.mean(1) + 0.3, patches, None, grid)


def test_logits_are_those_of_transformers():
    """With the same weights, by transformers' own class head; merged class token included."""
    from transformers import OwlViTConfig
    from transformers.models.owlvit.modeling_owlvit import OwlViTClassPredictionHead

    torch.manual_seed(0)
    theirs = OwlViTClassPredictionHead(OwlViTConfig(text_config={"hidden_size": 8}, vision_config={"hidden_size": 12}))
    ours = OwlHead(12, 8, True, OwlSettings())
    nn.init.normal_(ours.merged.weight)
    for own, other in ((ours.project, theirs.dense0), (ours.shift, theirs.logit_shift), (ours.scale, theirs.logit_scale)):
        own.load_state_dict(other.state_dict())
    raw, text = raw_of(), torch.randn(2, 5, 8)
    merged = ours.merged(raw.patches_BPV * raw.pooled_BV[:, None])
    expected = theirs(merged, text, torch.ones(2, 5))[0]
    found = ours(raw).logits(nn.functional.normalize(text, dim=-1))
    assert (found - expected).abs().max() < 1e-4


def test_a_new_head_has_boxes_at_their_patches_and_names_at_the_prior():
    head = OwlHead(12, 8, False, OwlSettings(prior=0.02))
    found = head(raw_of())
    wanted = [[(c + 0.5) / 4, (r + 0.5) / 3, 1 / 4, 1 / 3] for r in range(3) for c in range(4)]
    assert (found.box_BP4 - torch.tensor(wanted)).abs().max() < 1e-4
    assert (box_bias((3, 4)).sigmoid() - torch.tensor(wanted)).abs().max() < 1e-6
    across = found.class_BPD.new_zeros(1, 8)  # what has no cosine with anything
    assert found.logits(across).sigmoid().mean().item() == pytest.approx(0.02, rel=1e-4)


def test_a_new_head_orders_names_as_the_models_patches_do():
    model = small()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        image = model.encode_images(pixels, frozenset({"patches"}))
        raw = model.raw_images(pixels, frozenset({"patches"}))
        text = nn.functional.normalize(torch.randn(6, model.width), dim=-1)
        ours = OwlHead.for_model(model, OwlSettings(class_token="ignore"))(raw).logits(text)
    cosines = nn.functional.normalize(image.patches_BPD, dim=-1) @ text.T
    assert torch.equal(ours.argsort(-1), cosines.argsort(-1))
    assert OwlHead.for_model(model, OwlSettings()).merged is None  # its pooled vector is the mean of its patches
    assert OwlHead.for_model(model, OwlSettings(class_token="multiply")).merged is not None


def test_pictures_without_patches_are_refused():
    with pytest.raises(UserError, match="gives no patches"):
        OwlHead(12, 8, False, OwlSettings())(RawImage(torch.zeros(1, 12)))


# ---- targets ----------------------------------------------------------------------------------------------------------------


def picture(names, key="k", **more):
    boxes = tuple((4.0 * n, 2.0, 4.0 * n + 6.0, 12.0) for n in range(len(names)))
    return BoxedPicture(key, (40, 20), boxes, tuple(names), **more)


NAMES = tuple(f"{colour} {noun}" for colour in ("red", "blue", "green") for noun in ("cup", "hat", "fork", "bowl"))


def targets_of(examples, **data):
    settings = DetectionSettings(data=DetectionData(**data))
    return DetectionTask(settings, NAMES).targets(examples, [np.random.default_rng(n) for n in range(len(examples))])


def test_targets_ask_for_own_names_and_for_what_is_not_there():
    one, two = picture(["red cup", "red cup", "blue hat"]), picture([], unsure=("green cup", "red hat"))
    found = targets_of([one, two], negatives=4)
    asked = [[NAMES[q] for q, real in zip(row, real_Q, strict=True) if real] for row, real_Q in zip(found.query_BQ, found.real_BQ, strict=True)]
    assert asked[0][:2] == ["red cup", "blue hat"]
    assert [len(row) for row in asked] == [6, 4]
    assert len(set(asked[0])) == 6
    assert not {"green cup", "red hat"} & set(asked[1])
    assert found.labels[0].tolist() == [0, 0, 1]
    assert found.boxes[0].tolist()[1] == pytest.approx([7 / 40, 7 / 20, 6 / 40, 10 / 20])
    assert found.boxes[1].shape == (0, 4)


def test_stated_negatives_come_first_and_queries_are_bounded():
    one = picture(["red cup"], absent=("blue hat", "green bowl", "unknown thing"))
    found = targets_of([one], negatives=2)
    assert {NAMES[q] for q in found.query_BQ[0].tolist()} == {"red cup", "blue hat", "green bowl"}
    many = targets_of([picture(["red cup", "red hat", "red fork"])], queries=2, negatives=9)
    assert many.query_BQ.shape == (1, 2)
    assert many.labels[0].tolist() == [0, 1]
    everything = targets_of([one], negatives=1000, queries=1000)
    assert sorted(everything.query_BQ[0].tolist()) == list(range(len(NAMES)))


def test_names_held_out_are_drawn_by_the_seed_and_never_trained():
    names = [f"{a} {b}" for a in "abcdefghij" for b in "klmnopqrst"] + ["single"]
    out = held_out(names, 0.2, 3)
    assert out == held_out(names[::-1], 0.2, 3) != held_out(names, 0.2, 4)
    assert 8 <= len(out) <= 35
    assert "single" not in out
    assert held_out(names[:10], 0.2, 3) == out & set(names[:10])
    (kept,) = without([picture(["red cup", "blue hat", "red cup"], crowd=(False, False, True))], frozenset({"blue hat"}))
    assert (kept.names, kept.boxes) == (("red cup",), ((0.0, 2.0, 6.0, 12.0),))
    assert kept.unsure == ("blue hat", "red cup")  # no negative either


def test_unit_boxes_come_back():
    one = picture(["red cup", "blue hat"])
    back = corners(torch.from_numpy(unit_boxes(one))) * torch.tensor([40, 20, 40, 20])
    assert np.allclose(back.numpy(), np.array(one.boxes), atol=1e-5)


def test_prepared_scenes_know_what_they_do_not_know(scenes):
    found = prepared(scenes, "train")
    names = vocabulary(found)
    plural = 0
    for one in found:
        record = scenes.record(one.key)
        assert [(plain_name(region.phrase), region.box) for region in record.regions] == list(zip(one.names, one.boxes, strict=True))
        nouns = next(c.text for c in record.captions if c.role == "nouns").replace(" ,", "").split()
        without_box = set(nouns) - {name.split()[-1] for name in one.names}
        assert {name.split()[-1] for name in one.unsure} == without_box & {name.split()[-1] for name in names}
        plural += bool(one.unsure)
    assert plural
    with pytest.raises(UserError, match="no split 'nothing'"):
        prepared(scenes, "nothing")


def test_settings_are_held_to_their_ranges():
    for override, said in (
        ("--data.held_out=1.0", "data.held_out is 1.0"), ("--loss.kind=hinge", "'hinge' is not one of focal, softmax"), ("--head.prior=0.0", "head.prior"),
        ("--loss.alpha=2.0", "loss.alpha"), ("--data.templates=plain", "not a list"), ("--head.class_tokens=x", "class_token"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            load_settings("detect", DetectionSettings, None, [override])
    assert load_settings("detect", DetectionSettings).training.steps == 4000


# ---- boxes without training -------------------------------------------------------------------------------------------------


def test_a_planted_blob_is_a_box():
    way = HeatBoxes(PooledReadOut(small()), cut=0.5)
    maps = torch.zeros(2, 8, 8)
    maps[1, 2:4, 5:7] = 0.9
    maps[1, 6, 0] = 0.7
    found = way.boxes(maps, (80, 160))
    assert found.label_K.tolist() == [1, 1]
    assert found.score_K.tolist() == pytest.approx([0.9, 0.7], abs=0.15)
    assert np.abs(found.box_K4[0] - [50, 40, 70, 80]).max() <= 10  # half a patch is 5 and 10 pixels
    assert len(way.boxes(torch.ones(3, 4, 4), (8, 8)).score_K) == 0  # a flat map has none


def test_heat_boxes_are_whole_however_pictures_are_batched(scenes):
    model = small()
    way, pictures = HeatBoxes(PooledReadOut(model)), prepared(scenes, "train")[:5]
    together = list(way.of_pictures(pictures, scenes, ("red cup", "blue hat"), ("plain",)))
    alone = [next(iter(way.of_pictures([one], scenes, ("red cup", "blue hat"), ("plain",)))) for one in pictures]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one.label_K, other.label_K)
        assert np.allclose(one.box_K4, other.box_K4)
