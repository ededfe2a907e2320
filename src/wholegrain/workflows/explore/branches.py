"""What each branch of a model with several vectors a picture retrieves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wholegrain.evaluation.features.encode import default_needs, encode_image_batches
from wholegrain.evaluation.scores.similarity import unit
from wholegrain.progress import Show, nowhere
from wholegrain.workflows.explore.gallery import Neighbours
from wholegrain.workflows.given_pictures import GivenPictures


@dataclass(frozen=True)
class BranchRow:
    """The captions nearest to one branch of a picture, nearest first: (text, cosine)."""

    branch: int
    captions: tuple[tuple[str, float], ...]


def branch_rows(near: Neighbours, pixels_HWC: np.ndarray, k: int = 3, show: Show = nowhere) -> list[BranchRow]:
    """The nearest captions of the gallery for each branch; none for a model with one vector, or a gallery without captions."""
    model = near.model.model
    if "branches" not in default_needs(model) or not near.texts:
        return []
    given = GivenPictures([pixels_HWC], 0, skip=False)
    (image,) = encode_image_batches(model, given, given.keys, frozenset({"branches"}))
    if image.branches_BHD is None:
        return []
    return [BranchRow(h, near.captions_near(branch_D, k, show)) for h, branch_D in enumerate(unit(image.branches_BHD[0]))]
