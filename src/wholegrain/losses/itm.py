"""Image-text matching: a network that reads image and text together says of a pair yes or no; hard pairs are sought by the towers.

With z(i,n) the log-odds of :attr:`ImageFeatures.match` and S = scale * cos of the pooled vectors::

    yes    every true pair (image i, its text n)
    no     (i, m) for every image that has a text:  one text m, drawn with probability ~ e^S(i,m)
           (j, n) for every true text:              one image j, drawn with probability ~ e^S(j,n)
           (i, k) for every hard negative k that the data give
    loss = mean over all these pairs of  log(1 + e^-z) for yes,  log(1 + e^z) for no

Sources: Li et al., ALBEF (NeurIPS 2021, arXiv 2107.07651), section 3.2, "image-text matching" with "contrastive hard negatives"; Zeng et
al., X-VLM (ICML 2022, arXiv 2111.08276), section 3; both released codes. There the output is two-way with a softmax cross entropy; z
is the difference of the two outputs, and the loss is the same.

Differences. The codes draw with ``torch.multinomial`` from the batch of one process, so the loss depends on the number of processes and
on the order of the batch; here from the global batch, by numbers that are hashes of the pair's ids and of a count of steps
(``losses/core/hashed_noise.py``): the same draw for any number of processes and any order, and another in every step. The count is carried
state; torch's generator is not used, because every process has its own. ALBEF's code adds 1e-4 to the logits before the
softmax (which changes nothing), X-VLM's 1e-5 to the probabilities, against rows of zeros, which cannot come about here.
Hard negatives of the data are ours. X-VLM also matches regions with their phrases: give those as images and texts of their own.
With one caption an image and none of the data, yes to no is 1 : 2 as there.

Duplicates: a pair known to be true (same words, copied image) is never drawn as "no" (``duplicates="ignore"``; the codes do so by
image ids where the data have them); ``"negative"`` leaves out own texts alone. Copies of one image have one id, so a draw that does
not look at scores (``"uniform"``) takes the first of them.
Cost: (1 + 2 + K) passes of the network a pair, K negatives a caption; B_local x N dot products for the draw. Sends the true texts' tokens
once; patches stay where they are: a process scores its own images.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> image = ImageFeatures(torch.eye(3), patches_BPD=torch.ones(3, 2, 3), match=lambda image, text: 0 * text.pooled_ND.sum(1))
    >>> text = TextFeatures(torch.eye(3), torch.ones(3, 4, 3), torch.ones(3, 4, dtype=torch.bool))
    >>> loss = ItmLoss()(image, text, Pairing.one_to_one(3), torch.tensor(10.0))
    >>> round(loss.value.exp().item(), 4)    # a network that knows nothing
    2.0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad, softplus

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, at_least_float32, takes_numbers, unit
from wholegrain.losses.core.gather import GlobalTexts, gather_rows, gather_texts, sum_over, world
from wholegrain.losses.core.hashed_noise import gumbel, mixed
from wholegrain.losses.core.known_true import Duplicates, KnownTrue, own_foils
from wholegrain.losses.core.matching import NEEDED, log_odds
from wholegrain.losses.core.pair_scores import MaskedTokens, clean_tokens, gather_tokens

CELLS = 2**24  # float64 numbers of one block of the draw: 128 MB


@dataclass(frozen=True)
class ItmLoss:
    """Yes or no for true pairs, drawn hard pairs, and the data's hard negatives.

    Attributes:
        sampling: how "no" pairs are drawn: ``"contrastive"`` as the module says, ``"uniform"``: any that is not known to be true.
        negatives: hard negatives of the data: ``"own"``: each is a "no" pair of its own image; ``"none"``: not seen.
        duplicates: ``"ignore"``: a pair known to be true is never "no"; ``"negative"``: it may be, unless it is the image's own.
        seed: of the draws.
    """

    sampling: Literal["contrastive", "uniform"] = "contrastive"
    negatives: Literal["own", "none"] = "own"
    duplicates: Duplicates = "ignore"
    seed: int = 0
    needs: ClassVar[frozenset[str]] = NEEDED
    ranges: ClassVar[Ranges] = {"seed": (0, 2**63 - 1)}

    def initial_state(self, kinds: Sequence[str]) -> dict[str, Tensor]:
        """``draw``: the seed, and how many steps were drawn: int64 ``[2]``."""
        return {"draw": torch.tensor([self.seed, 0])}

    @takes_numbers
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
        draw = (self.initial_state(()) if state is None else state)["draw"].to(pairing.owner_N.device)
        tokens = clean_tokens(text, "ItmLoss")
        true = pairing.true_N.nonzero().squeeze(1)
        pairs = pairing.select_texts(true)
        all_tokens, _ = gather_tokens(tokens[true], pairs, group)
        everyone = gather_texts(text.pooled_ND[true], pairs, group)
        foil = own_foils(pairing, everyone, self.duplicates)
        if self.negatives == "none":
            foil = foil[:0]
        with torch.no_grad(), torch.autocast(image.pooled_BD.device.type, enabled=False):
            hard_image, hard_text = self._hard(image, pairs, everyone, at_least_float32(scale), draw)

        foil_text = torch.arange(len(foil), device=foil.device) + len(everyone.vectors_CD)
        yes_text = torch.arange(len(true), device=true.device) + everyone.texts_before
        images = torch.cat([pairs.owner_N, hard_image, pairing.owner_N[foil]])
        texts = torch.cat([yes_text, hard_text, foil_text])
        z_M = log_odds(image, _joined(everyone, all_tokens, text, tokens, foil), images, texts)
        yes_M = torch.arange(len(images), device=images.device) < len(true)
        return self._output(z_M, yes_M, group, {"draw": torch.stack([draw[0], draw[1] + 1])})

    def _output(self, z_M: Tensor, yes_M: Tensor, group: dist.ProcessGroup | None, state: State) -> LossOutput:
        loss_M, yes = softplus(torch.where(yes_M, -z_M, z_M)), yes_M.to(z_M.dtype)
        counts = sum_over(torch.stack([yes.sum(), (1 - yes).sum()]), group)
        total, counts = counts.sum().clamp_min(1), counts.clamp_min(1)
        right = ((z_M > 0) == yes_M).to(z_M.dtype)
        each = loss_M.detach()
        parts = {
            "yes": (each * yes).sum() / counts[0],
            "no": (each * (1 - yes)).sum() / counts[1],
            "right_yes": (right * yes).sum() / counts[0],
            "right_no": (right * (1 - yes)).sum() / counts[1],
        }
        return LossOutput(loss_M.sum() / total, parts, state)

    def _hard(
        self, image: ImageFeatures, pairs: Pairing, everyone: GlobalTexts, scale: Tensor, draw: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The drawn pairs whose image is this process's: image (0..B-1), text of ``everyone``."""
        image_BD, text_CD = unit(image.pooled_BD), unit(everyone.vectors_CD)
        rows, columns = len(image_BD), len(text_CD)
        image_key = pairs.image_id_B
        owner_id = everyone.pairing.image_id_B[everyone.pairing.owner_N]
        text_key = everyone.pairing.text_id_N + mixed(owner_id)
        keys = mixed(mixed(draw[0]) + draw[1]) + torch.tensor([1, 2], device=draw.device)
        known = KnownTrue(pairs, everyone, self.duplicates)
        text_B = torch.full((rows,), -1, device=text_CD.device)
        image_C, best_C = torch.full((columns,), -1, device=text_CD.device), text_CD.new_full((columns,), -torch.inf).double()
        step = max(1, CELLS // max(columns, 1))
        for first in range(0, rows if columns else 0, step):
            here = slice(first, min(first + step, rows))
            logit = scale * (image_BD[here] @ text_CD.T)
            logit = (logit if self.sampling == "contrastive" else 0 * logit).masked_fill(known(here), -torch.inf)
            best, place = (logit + gumbel(keys[0], image_key[here], text_key)).max(1)
            text_B[here] = torch.where(best > -torch.inf, place, -1)
            best, place = (logit + gumbel(keys[1], image_key[here], text_key)).max(0)
            image_C = torch.where(best > best_C, place + first, image_C)
            best_C = torch.maximum(best_C, best)
        rank, size = world(everyone.group)
        first_of = gather_rows(best_C[None], (1,) * size, everyone.group).argmax(0)
        image_C = torch.where(first_of == rank, image_C, -1)
        has_text_B = torch.zeros(rows, dtype=torch.bool, device=text_CD.device)
        has_text_B[pairs.owner_N] = True
        own, drawn = ((text_B >= 0) & has_text_B).nonzero().squeeze(1), (image_C >= 0).nonzero().squeeze(1)
        return torch.cat([own, image_C[drawn]]), torch.cat([text_B[own], drawn])


def _joined(everyone: GlobalTexts, all_tokens: MaskedTokens, text: TextFeatures, tokens: MaskedTokens, foil: Tensor) -> TextFeatures:
    """The true texts of all processes, then this process's foils."""
    mine = tokens[foil]
    length = max(all_tokens.mask_CL.shape[1], mine.mask_CL.shape[1])

    def longer(x: Tensor) -> Tensor:
        return pad(x, (0, 0) * (x.ndim - 2) + (0, length - x.shape[1]))

    return TextFeatures(
        torch.cat([everyone.vectors_CD, text.pooled_ND[foil]]),
        torch.cat([longer(all_tokens.tokens_CLD), longer(mine.tokens_CLD)]),
        torch.cat([longer(all_tokens.mask_CL), longer(mine.mask_CL)]),
    )
