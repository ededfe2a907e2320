"""TripletCLIP: a false caption has a picture of its own, and either picture must choose between both captions.

Twins are two images that differ in one fact, x[i] with its caption y[i] and x'[i] with y'[i]: each caption is false of the other image. With
S = s cos, all sums over the global batch::

    NegCLIP(X, Y, Y') = 1/2 mean_i [ -log e^S(x[i],y[i]) / sum over Y and Y' of e^S(x[i],.)  -log e^S(x[i],y[i]) / sum over X of e^S(.,y[i]) ]
    loss              = NegCLIP(X, Y, Y') + NegCLIP(X', Y', Y)

Patel et al., "TripletCLIP: Improving Compositional Reasoning of CLIP via Synthetic Vision-Language Negatives", NeurIPS 2024, arXiv 2411.02545;
code tripletclip/TripletCLIP@abbf81c, ``src/openclip/src/loss.py``. Which of two twins belongs to X is the data's (``Pairing.side_B``); an image
without a twin stands among X.

What that is. A sum of two means, so it is about twice a mean over pairs; an image chooses among all captions of both sides, which is CLIP's
row over a batch that holds both twins. A caption chooses among the images of its own side alone: it never has to tell its image from
the false one. Recipe clip with ``data.twin_share`` asks that, too (``rivals = "all"`` here, but for the factor).

Differences from the source. Any number of captions an image, each a pair of its own; the image's other captions are no rivals. In the
release every image has a twin; here a side may be short or empty, and then counts by its own mean, or nothing. Hard negatives in the
list of texts are not seen: the false captions are the twins' true ones.

Duplicates: ignored (``duplicates="ignore"``); ``"negative"`` is what the released code does.
Cost: as CLIP on a batch of as many images; sends each text's vector once.

Example:
    >>> import torch
    >>> from dataclasses import replace
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> same, pairing = torch.ones(4, 8), replace(Pairing.one_to_one(4), side_B=torch.tensor([0, 1, 0, 1]))
    >>> output = TripletclipLoss()(ImageFeatures(same), TextFeatures(same), pairing, torch.tensor(10.0))
    >>> {name: round((part / 2).exp().item(), 4) for name, part in output.parts.items()}    # two sides; 4 captions, 2 images to choose from
    {'image_to_text': 4.0, 'text_to_image': 2.0}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.contrastive import Rest, mean_of_both, over_processes
from wholegrain.losses.core.gather import GlobalTexts, gather_texts, sum_over
from wholegrain.losses.core.known_true import Duplicates, KnownTrue
from wholegrain.losses.core.tiled_softmax import tiled_softmax
from wholegrain.losses.core.tiles import Logits


@dataclass(frozen=True)
class TripletclipLoss:
    """The sum of two NegCLIP losses, of the images of either side.

    Attributes:
        rivals: a caption chooses among the images of its own ``"side"``, as published, or of ``"all"``.
        duplicates: ``"ignore"`` leaves known true pairs out of the denominators; ``"negative"`` keeps them in.
    """

    rivals: Literal["side", "all"] = "side"
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset({"twins"})

    @full_precision
    def __call__(
        self,
        image: ImageFeatures,
        text: TextFeatures,
        pairing: Pairing,
        scale: Tensor,
        bias: Tensor | None = None,
        state: State | None = None,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> LossOutput:
        if pairing.side_B is None:
            raise ValueError("TripletclipLoss needs to know which images are twins; set data.twin_share")
        image_BD, scale = unit(image.pooled_BD), at_least_float32(scale)
        pairs, text_ND = pairing.select_texts(pairing.true_N), unit(text.pooled_ND[pairing.true_N])
        everyone = gather_texts(text_ND, pairs, group)
        sides = [self._side(image_BD, pairing.side_B == side, pairs, everyone, scale) for side in (0, 1)]
        by_text = [by_text for *_, by_text in sides]
        if self.rivals == "all":
            both = Rest(torch.logaddexp(by_text[0].stats, by_text[1].stats))
            by_text = [both, both]
        to_text = to_image = 0 * scale
        for (pair_P, true_P, by_image, _), others in zip(sides, by_text, strict=True):
            count = sum_over(true_P.new_tensor(float(len(true_P))), group).clamp_min(1)
            to_text = to_text + by_image.cross_entropy(true_P).sum() / count
            to_image = to_image + others[pair_P + everyone.texts_before].cross_entropy(true_P).sum() / count
        return mean_of_both(to_text, to_image)

    def _side(
        self, image_BD: Tensor, here_B: Tensor, pairs: Pairing, everyone: GlobalTexts, scale: Tensor
    ) -> tuple[Tensor, Tensor, Rest, Rest]:
        """Of one side's images: their captions (places among this process's), scores of these pairs, and what images and all texts are
        compared with."""
        image_R, place_B = here_B.nonzero().squeeze(1), here_B.cumsum(0) - 1
        pair_P = here_B[pairs.owner_N].nonzero().squeeze(1)
        row_P = place_B[pairs.owner_N[pair_P]]
        known = KnownTrue(pairs, everyone, self.duplicates, image_R=image_R)
        logits = Logits(image_BD[image_R], everyone.vectors_CD, scale)
        found = tiled_softmax(logits, known, row_P, pair_P + everyone.texts_before)
        return pair_P, found.pair_P, Rest(found.by_row)[row_P], over_processes(Rest(found.by_column), everyone.group)
