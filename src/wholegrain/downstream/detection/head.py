"""OWL-ViT's heads: every patch is one candidate, with a vector in the space of texts and a box near its own place.

Minderer et al. 2022 (arXiv 2205.06230); released code: scenic ``projects/owl_vit/layers.py``, and ``OwlViTForObjectDetection`` of transformers. What
differs:

* *Class token.* The code multiplies patches by the class token and normalises (``mul-ln``). Here so only where the tower has a class token
  (``class_token = "auto"``): of one that pools its patches there is nothing to merge.
* *Projection.* The code begins it near zero (std 1e-6). Here it begins as the model's own image projection where nothing is merged before it, so that
  at the first step a patch's logits order names as its cosines do.
* *Box bias.* transformers puts the centre at the patch's lower right corner (1/W, 2/W, …, 1); here at its middle.
* *Prior.* The shift begins such that every patch has about ``prior`` for every name (scenic's config names 0.01 as ``prior_prob``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, normalize

from wholegrain.downstream.settings import require
from wholegrain.errors import UserError
from wholegrain.towers.base import RawImage
from wholegrain.towers.model import Model

_EDGE = 1e-4  # keeps logits of places finite


@dataclass(frozen=True)
class OwlSettings:
    """The head.

    Attributes:
        class_token: ``multiply`` patches by the pooled vector and normalise, ``ignore`` it, or ``auto``: multiply where the tower does not pool
            its patches.
        box_layers: linear layers of the box head.
        prior: how probable every name is at every patch to begin with.
        scale: of the logits to begin with; the code's is about 1.
    """

    class_token: Literal["auto", "multiply", "ignore"] = "auto"
    box_layers: int = 3
    prior: float = 0.01
    scale: float = 20.0

    def __post_init__(self) -> None:
        require(1 <= self.box_layers <= 16, "head.box_layers", self.box_layers, "a whole number from 1 to 16")
        require(0 < self.prior < 1, "head.prior", self.prior, "above 0 and below 1")
        require(1 <= self.scale <= 100, "head.scale", self.scale, "from 1 to 100")


class Candidates(NamedTuple):
    """What the head makes of B pictures.

    Attributes:
        class_BPD: unit vectors in the space of texts.
        shift_BP, scale_BP: of the logits; the scale is above 0.
        box_BP4: centre x and y, width and height, in shares of the picture's sides, each in 0..1.
    """

    class_BPD: Tensor
    shift_BP: Tensor
    scale_BP: Tensor
    box_BP4: Tensor

    def logits(self, text_BQD: Tensor) -> Tensor:
        """``[B, P, Q]``: (cosine + shift) * scale of every patch with the pictures' own queries, unit vectors ``[B, Q, D]`` (or ``[Q, D]``)."""
        return (self.class_BPD @ text_BQD.mT + self.shift_BP[..., None]) * self.scale_BP[..., None]


class OwlHead(nn.Module):
    """The two heads.

    Args:
        width: V of the image tower.
        shared: D of the text vectors.
        multiply: merge the pooled vector.
        settings: see there.
    """

    def __init__(self, width: int, shared: int, multiply: bool, settings: OwlSettings) -> None:
        super().__init__()
        self.merged = nn.LayerNorm(width) if multiply else None
        self.project = nn.Linear(width, shared)
        self.shift, self.scale = nn.Linear(width, 1), nn.Linear(width, 1)
        layers: list[nn.Module] = []
        for _ in range(settings.box_layers - 1):
            layers += [nn.Linear(width, width), nn.GELU()]
        last = nn.Linear(width, 4)
        nn.init.zeros_(last.weight)  # boxes begin at their patches
        nn.init.zeros_(last.bias)
        self.box = nn.Sequential(*layers, last)
        for layer in (self.shift, self.scale):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.shift.bias, math.log(settings.prior / (1 - settings.prior)) / settings.scale)
        nn.init.constant_(self.scale.bias, settings.scale - 1)  # elu(x) + 1 is x + 1 here

    @classmethod
    def for_model(cls, model: Model, settings: OwlSettings) -> OwlHead:
        """A new head for a model; its projection begins as the model's own where that fits."""
        multiply = settings.class_token == "multiply" or (settings.class_token == "auto" and not model.image_tower.pools_patches)
        head = cls(model.image_tower.width, model.width, multiply, settings)
        own = model.head.image
        if not multiply and isinstance(own, nn.Linear) and own.weight.shape == head.project.weight.shape:
            with torch.no_grad():
                head.project.weight.copy_(own.weight)
                head.project.bias.copy_(own.bias if own.bias is not None else torch.zeros_like(head.project.bias))
        return head

    def forward(self, image: RawImage) -> Candidates:
        """The candidates of pictures whose patches are there.

        Raises:
            UserError: they are not.
        """
        if image.patches_BPV is None or image.grid is None:
            raise UserError("The image tower gives no patches; choose a model with a Vision Transformer.")
        x_BPV = image.patches_BPV
        if self.merged is not None:
            x_BPV = self.merged(x_BPV * image.pooled_BV[:, None])
        bias_P4 = box_bias(image.grid).to(x_BPV.device)
        box_BP4 = (self.box(x_BPV).float() + bias_P4).sigmoid()
        class_BPD = normalize(self.project(x_BPV).float(), dim=-1, eps=1e-6)
        return Candidates(class_BPD, self.shift(x_BPV).float().squeeze(-1), elu(self.scale(x_BPV).float().squeeze(-1)) + 1, box_BP4)


def box_bias(grid: tuple[int, int]) -> Tensor:
    """float32 ``[P, 4]``: logits of each patch's own box, row-major.

    Example:
        >>> box_bias((1, 2)).sigmoid().round(decimals=3).tolist()
        [[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]]
    """
    rows, columns = grid
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    box_P4 = torch.stack([x.flatten(), y.flatten(), torch.full((rows * columns,), 1 / columns), torch.full((rows * columns,), 1 / rows)], 1)
    return box_P4.logit(_EDGE)
