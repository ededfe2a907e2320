"""From a batch to features, as one module, so that DDP can wrap it: live towers, or heads on cached raw features."""

from __future__ import annotations

from torch import Tensor, nn

from wholegrain.data.batch import Batch
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.towers.model import Model
from wholegrain.training.frozen import FrozenImages, FrozenTexts


class Encoder(nn.Module):
    """Batch, needs -> features of B images and N texts, scale, bias.

    Args:
        model: the two towers and their head.
        images, texts: raw features of frozen towers; ``None`` runs the tower.
    """

    def __init__(self, model: Model, images: FrozenImages | None = None, texts: FrozenTexts | None = None) -> None:
        super().__init__()
        self.model, self.images, self.texts = model, images, texts

    def forward(self, batch: Batch, needs: frozenset[str]) -> tuple[ImageFeatures, TextFeatures, Tensor, Tensor | None]:
        """Distinct texts are encoded once and handed to every place that says them."""
        model, device = self.model, batch.row_N.device
        if self.images is not None:
            image = model.project_images(self.images.read(batch.keys, device), needs)
        else:
            image = model.encode_images(batch.views[0].pixels_BCHW, needs)
        if self.texts is not None:
            text = model.project_texts(self.texts.read(batch.texts, device), needs)
        else:
            text = model.encode_texts(batch.tokens_UL, batch.length_U, needs)
        if len(batch.row_N) > len(batch.texts):  # rows are numbered as they first appear: without repeats they are in place
            text = text.select(batch.row_N)
        return image, text, model.scale, model.bias
