"""Longer texts and other picture sizes than a model was trained with, by interpolated positions; written behind a model's name.

::

    ViT-B-32:openai,context=248                            Long-CLIP's stretch
    ViT-B-32:openai,context=248,positions=interpolate      all positions alike
    ViT-B-16:openai,image_size=336

*stretch* keeps the first 20 positions, which short texts have trained well, and stretches the others: Long-CLIP's "knowledge-preserving
stretching" (Zhang et al., ECCV 2024, arXiv 2403.15378, section 3.2). Position j >= 20 of the new table is the old table read at
20 + (j - 20) / r, with r = (context - 20) / (77 - 20), between two entries linearly and beyond the last one extrapolated, as in the
released code; 77 to 248 is r = 4. Texts of up to 20 tokens give the same features as before, bit for bit.

*interpolate* spreads the whole table evenly, j (L - 1) / (L' - 1), so that the first and the last position stay what they were (SigLIP pools
the last).

Neither is of use without training on long texts: fine-tune afterwards. A shorter context keeps the first positions as they are, and is exact for
towers that read no padding. Long-CLIP freezes the kept positions while it trains; here all are trained.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.towers.model import Model
from wholegrain.towers.sources.small import SmallImageTower, at_image_size

KEPT = 20
MOST = {"context": 2**13, "image_size": 4096}
HOW = ("stretch", "interpolate")
OPTIONS = ("context", "positions", "image_size")
_TAIL = re.compile(rf"(?:,(?:{'|'.join(OPTIONS)})=[^,=]*)+$")


def split_options(spec: str) -> tuple[str, dict[str, str]]:
    """A model's name, and what stands behind it.

    Example:
        >>> split_options("ViT-B-32:openai,context=248,positions=interpolate")
        ('ViT-B-32:openai', {'context': '248', 'positions': 'interpolate'})
    """
    tail = _TAIL.search(spec)
    if tail is None or spec.partition(":")[0] == "small":  # which has such settings of its own
        return spec, {}
    return spec[: tail.start()], dict(part.split("=", 1) for part in tail.group()[1:].split(","))


def fitted(model: Model, *, context: int | None = None, positions: str = "stretch", image_size: int | None = None) -> Model:
    """The model for another context and picture size; changed in place, except that of the preset ``small``, which is copied.

    The tokeniser and the preprocessing follow, and so does what is saved.

    Raises:
        UserError: a tower whose positions cannot be interpolated, or sizes that it cannot have.
    """
    if positions not in HOW:
        raise UserError(f"positions is {positions!r}; use {' or '.join(HOW)}")
    for name, value, least in (("context", context, 4), ("image_size", image_size, 1)):
        if value is not None and not least <= value <= MOST[name]:
            raise UserError(f"{name} is {value:,}; it must be {least} or more, and at most {MOST[name]:,}")
    if image_size is not None and image_size != model.preprocess.size:
        model = _with_image_size(model, image_size)
    if context is not None:
        _set_context(model, context, positions)
    return model


def stretched(table_LV: Tensor, length: int, kept: int = KEPT) -> Tensor:
    """Long-CLIP's table of ``length`` positions: the first ``kept`` as they are, the others stretched evenly.

    Example:
        >>> stretched(torch.tensor([[0.0], [1.0], [2.0], [4.0]]), 7, kept=1).flatten().tolist()
        [0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0]
    """
    old = len(table_LV)
    if old <= kept + 1:
        raise UserError(f"the text tower has {old} positions and stretching keeps the first {kept}; use positions=interpolate")
    place = torch.arange(length, dtype=torch.float64)
    place[kept:] = kept + (place[kept:] - kept) * (old - kept) / (length - kept)
    return _read_at(table_LV, place)


def interpolated(table_LV: Tensor, length: int) -> Tensor:
    """All positions spread evenly; both ends stay.

    Example:
        >>> interpolated(torch.tensor([[0.0], [2.0], [6.0]]), 5).flatten().tolist()
        [0.0, 1.0, 2.0, 4.0, 6.0]
    """
    return _read_at(table_LV, torch.arange(length, dtype=torch.float64) * (len(table_LV) - 1) / (length - 1))


def _read_at(table_LV: Tensor, place_N: Tensor) -> Tensor:
    """Between two entries linearly, beyond the last one on the line through the last two."""
    low_N = place_N.floor().clamp(max=len(table_LV) - 2).long().to(table_LV.device)
    share_N1 = (place_N.to(table_LV.device) - low_N)[:, None]
    table = table_LV.detach().double()
    return torch.lerp(table[low_N], table[low_N + 1], share_N1).to(table_LV.dtype)


def _set_context(model: Model, context: int, positions: str) -> None:
    tower, old = model.text_tower, model.text_tower.context_length
    if context == old:
        return
    if context < old and not tower.true_length:
        raise UserError(f"the text tower reads its padding up to {old} tokens, so a context of {context} would change every text")

    def resample(table_LV: Tensor) -> Tensor:
        if context < old:
            return table_LV.detach()[:context].clone()
        return stretched(table_LV, context) if positions == "stretch" else interpolated(table_LV, context)

    tower.set_context(context, resample)
    tower.tune(tower.tuned)
    room = old - model.tokenizer.context_length  # CLIPA's tokeniser leaves one place empty
    model.tokenizer = model.tokenizer.with_context(context - room)


def _with_image_size(model: Model, size: int) -> Model:
    tower = model.image_tower
    if tower.branches is not None:
        raise UserError(
            "the image tower has branches, whose mask belongs to its picture size; change the size of the model that they start from"
        )
    if isinstance(tower, SmallImageTower):
        return at_image_size(model, size)
    tower.resize(size)
    tower.tune(tower.tuned)
    model.preprocess = replace(model.preprocess, size=size)
    return model
