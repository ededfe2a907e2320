"""The comparisons: each feeds one problem to released code and to ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sources
import torch
from originals import Original
from problem import Problem, Shape, unit
from torch import Tensor

from wholegrain.features import ImageFeatures
from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.cmr import CmrLoss
from wholegrain.losses.diversity import DiversityLoss
from wholegrain.losses.imc import ImcLoss
from wholegrain.losses.many_to_many import ManyToManyLoss
from wholegrain.losses.negclip import NegclipLoss
from wholegrain.losses.siglip import SiglipLoss

PLAIN = Shape()
Theirs = Callable[[Any, Problem], Tensor]
Ours = Callable[[Problem], Tensor]


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: our loss and its settings.
        original: the code it is compared with.
        function: what is called there.
        theirs, ours: the two losses; ``theirs`` gets the module.
        shape: of the problems.
        same: whether they are to agree; ``why`` says why not, or what was done to make them comparable.
        loose: tolerance where they agree to less than rounding (an epsilon of theirs, a cast to float32).
    """

    name: str
    original: Original
    function: str
    theirs: Theirs
    ours: Ours
    shape: Shape = PLAIN
    same: bool = True
    why: str = ""
    loose: float = 1e-9


def loss(kind: Any, state: Any = None) -> Ours:
    """A loss of ours on a problem."""

    def value(p: Problem) -> Tensor:
        return kind(*p.features, p.scale, p.bias, state).value

    return value


def weighted(*terms: tuple[float, Ours]) -> Ours:
    """A weighted sum."""
    return lambda p: sum((weight * term(p) for weight, term in terms), torch.zeros(()))


# ---- CLIP, SigLIP, NegCLIP, CE-CLIP -----------------------------------------------------------------------------------------

COPIED = Shape(duplicates=True)
FOILS = Shape(negatives=4)
SOME_FOILS = Shape(negatives=4, absent=0.4)
NO_KIND = Shape(negatives=4, absent_kind=2)
IGNORED = "known duplicates are neither positive nor negative here, and negatives there"


def open_clip(m: Any, p: Problem) -> Tensor:
    return m.ClipLoss()(unit(p.image), unit(p.text), p.scale)


def open_clip_siglip(m: Any, p: Problem) -> Tensor:
    return m.SigLipLoss()(unit(p.image), unit(p.text), p.scale, p.bias)


def neg_clip(m: Any, p: Problem) -> Tensor:
    return m.ClipLoss()(unit(p.image), unit(p.text), p.scale)


def ce_clip(**flags: Any) -> Theirs:
    def value(m: Any, p: Problem) -> Tensor:
        module = m.Clip_DALoss(**flags)
        return module(unit(p.image), unit(p.text), p.valid_BMK[:, 0].to(p.text.dtype), p.scale, 0.0)[0]

    return value


def ce_clip_imc(m: Any, p: Problem) -> Tensor:
    module = m.Clip_DALoss()
    matrix = p.scale * unit(p.captions) @ unit(p.foils).T
    compare = getattr(module, "get_imc_loss", None) or module.get_tec_loss
    return compare(p.scale * unit(p.image) @ unit(p.captions).T, matrix)


def ce_clip_cmr(threshold_type: str, fixed: float | None = None) -> Theirs:
    """The second step: the first one sets the margin. As the training script does, the margin is clamped to 0..10."""

    def value(m: Any, p: Problem) -> Tensor:
        module = m.Clip_DALoss(threshold_type=threshold_type)
        mask = p.valid_BMK[:, 0].to(p.text.dtype)

        def logits(image: Tensor, text: Tensor, foils: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
            each = (unit(foils).unflatten(0, (len(image), -1)) @ unit(image)[:, :, None]).squeeze(2)
            return scale * unit(image) @ unit(text).T, scale * each * mask

        margin: Any = 0.0
        if fixed is not None:
            return module.get_cmr_loss(*logits(p.image, p.captions, p.foils, p.scale), mask, fixed)[0]
        first = (x.detach() for x in (p.image, p.captions, p.foils, p.scale))
        margin = module.get_cmr_loss(*logits(*first), mask, 0.0)[1].clamp(0, 10)
        return module.get_cmr_loss(*logits(-p.image, p.captions, p.foils, p.scale), mask, margin)[0]

    return value


def cmr(kind: CmrLoss) -> Ours:
    def value(p: Problem) -> Tensor:
        image, text, pairing = p.features
        if kind.margin == "fixed":
            return kind(image, text, pairing, p.scale).value
        state = kind(image, text, pairing, p.scale, state=kind.initial_state(pairing.kinds)).state
        return kind(ImageFeatures(-p.image), text, pairing, p.scale, state=state).value

    return value


def placeholders(kind: Any) -> Ours:
    """With every negative, also those that are not there."""

    def value(p: Problem) -> Tensor:
        from problem import draw  # the pairing of the full problem is that of one with nothing absent

        whole = draw(0, p.sizes[0], Shape(negatives=p.sizes[2]), p.text.dtype)
        return kind(ImageFeatures(p.image), type(p.features[1])(p.text), whole.pairing, p.scale).value

    return value


def contrastive() -> Iterator[Row]:
    """CLIP, SigLIP, NegCLIP and CE-CLIP."""
    clip, siglip = "ClipLoss", "SigLipLoss"
    yield Row("clip", sources.OPEN_CLIP, clip, open_clip, loss(ClipLoss()))
    yield Row("clip, duplicates in the batch", sources.OPEN_CLIP, clip, open_clip, loss(ClipLoss()), COPIED, False, IGNORED)
    yield Row('clip duplicates="negative"', sources.OPEN_CLIP, clip, open_clip, loss(ClipLoss(duplicates="negative")), COPIED)
    yield Row("siglip", sources.OPEN_CLIP, siglip, open_clip_siglip, loss(SiglipLoss()))
    yield Row("siglip, duplicates", sources.OPEN_CLIP, siglip, open_clip_siglip, loss(SiglipLoss()), COPIED, False, IGNORED)
    negative = loss(SiglipLoss(duplicates="negative"))
    yield Row('siglip duplicates="negative"', sources.OPEN_CLIP, siglip, open_clip_siglip, negative, COPIED)

    yield Row("negclip", sources.NEG_CLIP, clip, neg_clip, loss(NegclipLoss()), Shape(negatives=1))
    hard = ce_clip(hardnegative=True)
    yield Row("negclip", sources.CE_CLIP, "Clip_DALoss(hardnegative)", hard, loss(NegclipLoss()), FOILS)
    why = "placeholder texts of negatives that are not there are candidates there; here nothing is"
    yield Row(
        "negclip, negatives missing",
        sources.CE_CLIP,
        "Clip_DALoss(hardnegative)",
        hard,
        loss(NegclipLoss()),
        SOME_FOILS,
        False,
        why,
    )
    given = "the placeholders given as negatives"
    shown = placeholders(NegclipLoss())
    yield Row("negclip, placeholders given", sources.CE_CLIP, "Clip_DALoss(hardnegative)", hard, shown, SOME_FOILS, True, given)
    why = "its one-process branch reads the flag the wrong way round, so negatives are candidates where they were not asked for"
    yield Row("clip", sources.CE_CLIP_FIRST, "Clip_DALoss()", ce_clip(), loss(ClipLoss()), FOILS, False, why)
    yield Row("negclip", sources.CE_CLIP_FIRST, "Clip_DALoss()", ce_clip(), loss(NegclipLoss()), FOILS, True, "the flag off")
    yield from intra_modal()
    yield from ranked()


def intra_modal() -> Iterator[Row]:
    name = "get_imc_loss"
    why = "the target is the batch's first negative there, and the caption itself here"
    yield Row("imc (default)", sources.CE_CLIP, name, ce_clip_imc, loss(ImcLoss()), FOILS, False, why)
    yield Row('imc variant="released"', sources.CE_CLIP, name, ce_clip_imc, loss(ImcLoss(variant="released")), FOILS)
    yield Row(
        'imc variant="cross_modal"', sources.CE_CLIP_FEBRUARY, name, ce_clip_imc, loss(ImcLoss(variant="cross_modal")), FOILS
    )
    why = "the image's score of its own caption is one more rival there"
    for source, name in ((sources.CE_CLIP_FIRST, "get_tec_loss"), (sources.CE_CLIP_MARCH, "get_imc_loss")):
        yield Row('imc variant="released"', source, name, ce_clip_imc, loss(ImcLoss(variant="released")), FOILS, False, why)
        first = loss(ImcLoss(variant="first_release"))
        yield Row('imc variant="first_release"', source, name, ce_clip_imc, first, FOILS)


def ranked() -> Iterator[Row]:
    mean, name = ce_clip_cmr("mean"), "get_cmr_loss, two steps"
    grid = CmrLoss(reduction="grid")
    yield Row("cmr (default)", sources.CE_CLIP, name, mean, cmr(CmrLoss()), FOILS)
    why = "a mean over negatives here, over all cells there, also of absent ones"
    yield Row("cmr, negatives missing", sources.CE_CLIP, name, mean, cmr(CmrLoss()), SOME_FOILS, False, why)
    yield Row('cmr reduction="grid"', sources.CE_CLIP, name, mean, cmr(grid), SOME_FOILS)
    largest = CmrLoss(margin="max", reduction="grid")
    yield Row('cmr margin="max", reduction="grid"', sources.CE_CLIP, f"{name}, max", ce_clip_cmr("max"), cmr(largest), SOME_FOILS)
    fixed = CmrLoss(margin="fixed", fixed=2.0, reduction="grid")
    yield Row(
        'cmr margin="fixed", reduction="grid"',
        sources.CE_CLIP,
        "get_cmr_loss, fixed",
        ce_clip_cmr("fixed", 2.0),
        cmr(fixed),
        SOME_FOILS,
    )
    why = "0 / 0: the margin of a kind that no caption of a batch has is NaN there, and so is the next loss; here the kind keeps its margin"
    yield Row('cmr reduction="grid", a kind absent', sources.CE_CLIP, name, mean, cmr(grid), NO_KIND, False, why)


# ---- several captions, branches ---------------------------------------------------------------------------------------------

SEVERAL = Shape(captions=3)


def one_branch(p: Problem) -> Tensor:
    """Several captions, the rivals of each the captions in its place: many_to_many with one branch."""
    image, text, pairing = p.features
    image = ImageFeatures(image.pooled_BD, image.pooled_BD[:, None])
    return ManyToManyLoss(assignment="positional", duplicates="negative")(image, text, pairing, p.scale).value


def cosmos_clip(m: Any, p: Problem) -> Tensor:
    texts = p.by_image(unit(p.captions))
    return m.ClipLoss()(unit(p.image), list(texts.unbind(1)), p.scale)


def dreamlip_clip(m: Any, p: Problem) -> Tensor:
    found = m.ClipLoss(use_declip_loss=True)(unit(p.image), p.by_image(unit(p.captions)), p.scale, p.scale, output_dict=True)
    return sum(found.values(), torch.zeros(()))


def holistic(branches: int, captions: int) -> Theirs:
    def value(m: Any, p: Problem) -> Tensor:
        image = unit(p.branches).flatten(0, 1)
        text = p.by_image(unit(p.captions)) if captions > 1 else unit(p.captions)
        return m.ClipLoss(cls_num=branches)(image, text, p.scale, output_dict=True)["contrastive_loss"]

    return value


def holistic_hinge(m: Any, p: Problem) -> Tensor:
    image = unit(p.branches).flatten(0, 1)
    return (
        m.ClipLoss(cls_num=p.branches.shape[1])(image, unit(p.captions), p.scale, output_dict=True)["rank_loss"]
        + 0 * p.branches.sum()
    )


def holistic_mask(m: Any, p: Problem) -> Tensor:
    """A block of the released tower over class tokens and patches, with its boolean mask."""
    classes, rest = p.branches.shape[1], p.patches.shape[1]
    forbidden = torch.zeros(classes + rest, classes + rest, dtype=torch.int64)
    forbidden[:classes, :classes] = 1
    forbidden.fill_diagonal_(0)
    torch.manual_seed(0)
    width = p.image.shape[1]
    block = m.ResidualAttentionBlock(width, 1)
    x = torch.cat([p.branches, p.patches], 1)
    return block(x.transpose(0, 1), attn_mask=forbidden.bool()).square().mean()


def our_mask(legacy: bool) -> Ours:
    def value(p: Problem) -> Tensor:
        from open_clip.transformer import ResidualAttentionBlock

        from wholegrain.towers.branch_tokens import branch_mask

        torch.manual_seed(0)
        block = ResidualAttentionBlock(p.image.shape[1], 1)
        mask = branch_mask(p.branches.shape[1], p.patches.shape[1], "all", legacy_plus_one=legacy)
        return block(torch.cat([p.branches, p.patches], 1), attn_mask=mask).square().mean()

    return value


def branched() -> Iterator[Row]:
    """CLIP on several captions; Holistic CLIP."""
    several = loss(ClipLoss())
    why = "rivals are all texts of other images here, those in the same place of their list there"
    yield Row("clip, 3 captions", sources.COSMOS, "ClipLoss (lists)", cosmos_clip, several, SEVERAL, False, why)
    name = 'many_to_many assignment="positional", one branch'
    yield Row(name, sources.COSMOS, "ClipLoss (lists)", cosmos_clip, one_branch, SEVERAL)
    yield Row(name, sources.DREAMLIP, "ClipLoss(use_declip_loss)", dreamlip_clip, one_branch, SEVERAL)

    place, free = ManyToManyLoss(assignment="positional"), ManyToManyLoss(assignment="argmax")
    for branches, captions, kind in ((3, 3, place), (2, 4, place), (4, 3, free), (3, 1, free)):
        shape = Shape(captions=captions, branches=branches)
        name = f'many_to_many assignment="{kind.assignment}", {branches} branches, {captions} captions'
        yield Row(name, sources.HOLISTIC, "ClipLoss", holistic(branches, captions), loss(kind), shape)
    why = "more branches than captions: the release lets every caption choose; here m is bound to m"
    shape = Shape(captions=3, branches=4)
    name = 'many_to_many assignment="positional", 4 branches, 3 captions'
    yield Row(name, sources.HOLISTIC, "ClipLoss", holistic(4, 3), loss(place), shape, False, why)
    near, far = Shape(alike=0.8), Shape(alike=0.0)
    yield Row("diversity, branches alike", sources.HOLISTIC, "rank_loss", holistic_hinge, loss(DiversityLoss()), near)
    yield Row("diversity, branches unlike", sources.HOLISTIC, "rank_loss", holistic_hinge, loss(DiversityLoss()), far)
    why = "the release's boolean mask is cast to a float and added: +1, where class tokens should not see each other"
    yield Row("branch_mask", sources.HOLISTIC_TOWER, "ResidualAttentionBlock", holistic_mask, our_mask(False), PLAIN, False, why)
    yield Row("branch_mask legacy_plus_one=True", sources.HOLISTIC_TOWER, "ResidualAttentionBlock", holistic_mask, our_mask(True))
