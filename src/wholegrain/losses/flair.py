"""FLAIR's text-conditioned sigmoid loss: every text pools every image's patches by attention and is compared with what it got.

With z(i,n) image i pooled by the query of text n (:mod:`.attention_pool`) and z(i,n,y) = y (scale * cos(z(i,n), t[n]) + bias)::

    own(i)   = the true texts of image i                                   y = +1
    other(i) = one true text of every other image                          y = -1
    loss     = - sum over images i, over n in own(i) and other(i), of log sigmoid z(i,n,y)  /  (B + K - 1)

B images and K texts an image in the global batch. Xiao et al., CVPR 2025, arXiv 2412.03561, section 3.2 and its released code.
A pooled image is compared only with the text that pooled it: then no text can be recognised by itself alone ("query leakage",
``losses/sparc.py``), since a wrong text pools, too, and must fail. Its other term, the global image against all texts, each pair
a yes-or-no question ("multi-positive sigmoid", divided by B K), is ``siglip`` with ``per="text"``; the whole is the mean of both
terms.

Where sources differ. The code draws the text of another image at random for every pair; here it is the image's first text, which
the loader draws at random in every step: B queries are shared by all images, and no randomness is in the loss. ``others="all"``
takes all of them. With several processes the code divides each block of B_local images by B_local + K - 1; here the global batch
counts, so the loss is the same for any number of processes; K is the mean number of true texts an image.

``negatives="own"``: an image's hard negatives join other(i). Duplicates: ignored (``duplicates="ignore"``), or ``"negative"``.
Needs ``model.head = "flair"``: queries, keys, values, an empty slot that draws attention away, and M.
Cost: B_local x (B + K) x A x (2 P + D) multiply-adds forward for A = G E; memory is bounded (:mod:`.pair_scores`); sends one
query and one vector an image.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> slots, mix = torch.eye(4)[:, None, None], {"mix_DA": torch.eye(4), "mix_D": torch.zeros(4)}
    >>> image = ImageFeatures(torch.eye(4), keys_BGSE=slots, values_BGSE=slots, learned=mix)      # one slot: cosines 1 and 0
    >>> loss = FlairLoss()(image, TextFeatures(torch.eye(4), query_NGE=torch.eye(4)[:, None]), Pairing.one_to_one(4),
    ...     torch.tensor(10.0), torch.tensor(-5.0))
    >>> round(loss.value.item(), 4)         # (4 + 12) cells of ln(1 + e^-5) over 4 + 1 - 1 columns
    0.0269
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import logsigmoid

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.attention_pool import Pool
from wholegrain.losses.core.contract import LossOutput, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.gather import gather_texts, sum_over
from wholegrain.losses.core.known_true import Duplicates, KnownTrue, own_foils


@dataclass(frozen=True)
class FlairLoss:
    """Sigmoid contrast of images pooled by each text's attention.

    Attributes:
        others: texts of another image that are compared: its ``"first"``, or ``"all"``.
        negatives: hard negatives are not seen (``"none"``), or are compared with their ``"own"`` image.
        duplicates: ``"ignore"`` leaves known true pairs out; ``"negative"`` takes them as false.
    """

    others: Literal["first", "all"] = "first"
    negatives: Literal["none", "own"] = "none"
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset({"slots", "bias"})

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
        if bias is None or text.query_NGE is None:
            raise ValueError('FlairLoss needs a bias and queries; set model.head to "flair"')
        pool, scale, bias = Pool.of(image, image.learned, "FlairLoss"), at_least_float32(scale), at_least_float32(bias)
        query_NGE, text_ND, true = at_least_float32(text.query_NGE), unit(text.pooled_ND), pairing.true_N
        pairs, width = pairing.select_texts(true), text_ND.shape[1]
        everyone = gather_texts(torch.cat([text_ND[true], query_NGE[true].flatten(1)], 1), pairs, group)
        out_BC = KnownTrue(pairs, everyone, self.duplicates)(slice(0, len(pairs.image_id_B)))
        sent_CX = everyone.vectors_CD
        if self.others == "first":
            first = first_of_image(everyone.pairing.owner_N, len(everyone.pairing.image_id_B))
            sent_CX, out_BC = sent_CX[first], out_BC[:, first]
        logit_BC = scale * pool.scores(sent_CX[:, width:].view(len(sent_CX), *query_NGE.shape[1:]), sent_CX[:, :width]) + bias
        own_N = scale * pool.own_scores(query_NGE, text_ND, pairing.owner_N) + bias
        positive, negative = -logsigmoid(own_N[true]).sum(), -(logsigmoid(-logit_BC) * ~out_BC).sum()
        if self.negatives == "own":
            negative = negative - logsigmoid(-own_N[own_foils(pairing, everyone, self.duplicates)]).sum()
        images, texts = sum_over(own_N.new_tensor([len(pairs.image_id_B), len(pairs.owner_N)]), group)
        columns = (images + texts / images.clamp_min(1) - 1).clamp_min(1)
        parts = {"positive": (positive / columns).detach(), "negative": (negative / columns).detach()}
        return LossOutput((positive + negative) / columns, parts)


def first_of_image(owner_N: Tensor, images: int) -> Tensor:
    """The place of each image's first text, for the images that have one: int64, in order of images.

    Example:
        >>> first_of_image(torch.tensor([1, 0, 1, 3]), 4).tolist()
        [1, 0, 3]
    """
    count = len(owner_N)
    first = torch.full((images,), count, dtype=torch.int64, device=owner_N.device)
    first.scatter_reduce_(0, owner_N, torch.arange(count, device=owner_N.device), "amin")
    return first[first < count]
