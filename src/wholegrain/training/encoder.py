"""From a batch to features, as one module, so that DDP can wrap it: live towers, or heads on cached raw features."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from wholegrain.data.batch import Batch
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.towers.model import Model
from wholegrain.training.loading.frozen import FrozenImages, FrozenTexts
from wholegrain.training.memory.patch_dropout import PatchDropout
from wholegrain.training.teacher import Teacher

MADE_HERE = frozenset({"teacher", "views", "phrases"})
"""Needs that are met here, and are no business of a model."""
STUDENTS_ALONE = frozenset({"cross"})
"""Needs that no term has of a teacher."""


class Encoder(nn.Module):
    """Batch, needs -> features of B images and N texts, scale, bias.

    Args:
        model: the two towers and their head.
        images, texts: raw features of frozen towers; ``None`` runs the tower.
        teacher: whose features stand beside the model's where they are needed; it is no part of this module's parameters.
        dropping: which patches the model sees; a teacher sees all.
    """

    def __init__(
        self,
        model: Model,
        images: FrozenImages | None = None,
        texts: FrozenTexts | None = None,
        teacher: Teacher | None = None,
        dropping: PatchDropout | None = None,
    ) -> None:
        super().__init__()
        self.dropping = dropping
        self.model, self.images, self.texts, self.teacher = model, images, texts, teacher

    def forward(self, batch: Batch, needs: frozenset[str]) -> tuple[ImageFeatures, TextFeatures, Tensor, Tensor | None]:
        """Distinct texts are encoded once and handed to every place that says them."""
        model, plain = self.model, needs - MADE_HERE
        views = len(batch.views) if "views" in needs else 1
        if self.teacher is not None and self.teacher.student_views:
            views = min(views, self.teacher.student_views)
        image = self._encode_images(model, batch, plain, views, self.dropping)
        text = self._encode_texts(model, batch, plain)
        if "teacher" in needs and self.teacher is not None:
            with torch.no_grad():
                teacher, teacher_needs = self.teacher.model, plain - STUDENTS_ALONE
                seen = self._encode_images(teacher, batch, teacher_needs, min(self.teacher.views, len(batch.views)) if "views" in needs else 1)
                read = self._encode_texts(teacher, batch, teacher_needs)
            image, text = _with_teacher(image, seen), replace(text, teacher=read)
        if image.views:
            image = replace(image, views=tuple(replace(view, box_B4=_box(batch, n + 1)) for n, view in enumerate(image.views)))
        return image, batch.laid_out(text), model.scale, model.bias

    def _encode_images(
        self, model: Model, batch: Batch, needs: frozenset[str], views: int, dropping: PatchDropout | None = None
    ) -> ImageFeatures:
        """The first views of all images, in one pass."""
        if self.images is not None:
            return model.project_images(self.images.read(batch.keys, batch.row_N.device), needs)
        kept_BK = None if dropping is None else dropping.kept(batch.keys, views).to(batch.row_N.device, non_blocking=True)
        if views == 1:
            return model.encode_images(batch.views[0].pixels_BCHW, needs, kept_BK)
        all_views, images = torch.cat([view.pixels_BCHW for view in batch.views[:views]]), len(batch.keys)
        seen = model.encode_images(all_views, needs, kept_BK)
        first, *others = (seen.select(slice(k * images, (k + 1) * images)) for k in range(views))
        return replace(first, views=tuple(others))

    def _encode_texts(self, model: Model, batch: Batch, needs: frozenset[str]) -> TextFeatures:
        """The distinct texts."""
        if self.texts is not None:
            return model.project_texts(self.texts.read(batch.texts, batch.row_N.device), needs)
        return model.encode_texts(batch.tokens_UL, batch.length_U, needs)


def _with_teacher(image: ImageFeatures, teacher: ImageFeatures) -> ImageFeatures:
    """The student's views with the teacher's beside them; what the teacher did not see has none."""
    views = list(image.views)
    for index, seen in enumerate(teacher.views):
        if index < len(views):
            views[index] = replace(views[index], teacher=seen)
        else:
            views.append(ImageFeatures(seen.pooled_BD.clone(), teacher=seen))
    return replace(image, teacher=replace(teacher, views=()), views=tuple(views))


def _box(batch: Batch, view: int) -> Tensor:
    """Which part of the first view another one shows, in shares of its sides: float32 ``[B, 4]``."""
    first_B4, crop_B4 = batch.views[0].crops_B4, batch.views[view].crops_B4
    corner_B2, side_B2 = first_B4[:, :2], (first_B4[:, 2:] - first_B4[:, :2]).clamp_min(1e-6)
    return (crop_B4 - corner_B2.repeat(1, 2)) / side_B2.repeat(1, 2)
