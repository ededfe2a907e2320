"""FSC-CLIP's local hard negative loss: a caption is told from its hard negatives by its words' patches, not by one pooled vector.

For text n (a caption or a negative) of image i with un-normalised patches v_p and tokens t_l::

    s[l,p]  = t_l . v_p                                          no gradient through it
    w[l,p]  = (s[l,p] - min_k s[l,k]) / (max_k s[l,k] - min_k s[l,k]),  a[l,p] = w[l,p] / sum_r w[l,r]
    c_l     = sum_p a[l,p] v_p                                   the patches of word l
    S(i,n)  = log sum_l e^{scale * cos(c_l, t_l)}                over the words of n
    loss    = the (focal, smoothed) softmax of S(i, caption) among S(i, the caption's negatives), see ``own_negatives``

Oh et al., "Preserving Multi-Modal Capabilities of Pre-trained VLMs for Improving Vision-Linguistic Compositionality"
(FSC-CLIP, EMNLP 2024, arXiv 2410.05210), local HN loss, and its released code. The whole of FSC-CLIP is CLIP, without
negatives, + 0.5 ``own_negatives`` + 0.2 this, both with focal 2 and smoothing 0.02. Why: pushing the pooled vectors of
negatives away hurts what the model knew (retrieval, zero-shot); the words' own patches can be told apart with less damage.

Words are all tokens but the first (the start token), the end token among them, as in the code (``start_token = True`` takes
the first, too). Weights are those of SPARC without a threshold (``sparsify = True``: SPARC's 1/P, ``weights = "softmax"``: of
the bare dot products); the paper's Table 7 finds no difference between the three. Where all patches are equally similar the
code divides 0 by 0; here such a word weighs all alike.

Know before use. S is a *sum* over words: a text of twice as many words that fit as well scores ln 2 higher, so a longer
negative has an advantage, and dropping words lowers a score. ``words = "mean"`` subtracts ln L. And the word builds what it
is compared with ("query leakage", ``losses/sparc.py``), caption and negatives alike: what is left to tell them apart is how
well patches can be summed to each word.

Duplicates: a negative whose words are a true caption of the image is left out (``duplicates="ignore"``), or kept
(``"negative"``). A text without words takes no part.
Cost: N x L x P x D multiply-adds twice, N all texts of the process with negatives, in bounded memory (:mod:`.pair_scores`);
sends ids.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> lone, zero = torch.tensor([-1, 0]), torch.zeros(2, dtype=torch.int64)       # one image, its caption, one false caption
    >>> pairing = Pairing(zero, lone, zero, torch.tensor([-1, 0]), torch.tensor([7, 8]), torch.tensor([5]), kinds=("swap",))
    >>> image = ImageFeatures(torch.ones(1, 8), patches_BPD=torch.ones(1, 4, 8), grid=(2, 2))
    >>> text = TextFeatures(torch.ones(2, 8), torch.ones(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    >>> round(FscLocalLoss(focal=0.0, label_smoothing=0.0)(image, text, pairing, torch.tensor(10.0)).value.exp().item(), 4)
    2.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.known_true import Duplicates
from wholegrain.losses.core.pair_scores import MaskedTokens, blocks, clean_tokens, joined
from wholegrain.losses.core.typed_torch import distinct
from wholegrain.losses.own_negatives import choice_among_own, true_foils
from wholegrain.losses.sparc import minmax_weights


@dataclass(frozen=True)
class FscLocalLoss:
    """Softmax of an image over a caption and its own negatives, by the patches that their words gather.

    Attributes:
        focal, label_smoothing: as in ``own_negatives``; the defaults are FSC-CLIP's.
        weights: of patches under a word: ``"minmax"`` (the paper) or ``"softmax"``.
        sparsify: min-max weights below 1/P become 0, as in SPARC.
        detach_weights: no gradient through the weights (as released).
        words: a text's score is the ``"sum"`` of e^{scale * cos} over its words (the paper), or their ``"mean"``.
        start_token: whether the first token counts as a word.
        duplicates: ``"ignore"`` leaves out negatives known to be true; ``"negative"`` keeps them in.
    """

    focal: float = 2.0
    label_smoothing: float = 0.02
    weights: Literal["minmax", "softmax"] = "minmax"
    sparsify: bool = False
    detach_weights: bool = True
    words: Literal["sum", "mean"] = "sum"
    start_token: bool = False
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset({"patches", "tokens", "negatives"})
    ranges: ClassVar[Ranges] = {"focal": (0, 1e6), "label_smoothing": (0, 1)}

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
        if image.patches_BPD is None:
            raise ValueError("FscLocalLoss needs patches_BPD; encode with needs={'patches', 'tokens'}")
        tokens = clean_tokens(text, "FscLocalLoss")
        word_NL = tokens.mask_CL.clone()
        if not self.start_token:
            word_NL[:, :1] = False
        foil_M = true_foils(pairing, self.duplicates, group)
        caption_M, spoken_N = pairing.negative_of_N[foil_M], word_NL.any(1)
        there_M = spoken_N[foil_M] & spoken_N[caption_M]
        foil_M = foil_M[there_M]
        used_U = distinct(torch.cat([foil_M, caption_M[there_M]]))
        words = MaskedTokens(tokens.tokens_CLD[used_U], word_NL[used_U])
        score_U = self.scores(at_least_float32(image.patches_BPD), words, pairing.owner_N[used_U], at_least_float32(scale))
        score_N = score_U.new_zeros(len(word_NL)).index_put((used_U,), score_U)
        return choice_among_own(score_N, foil_M, pairing, self.focal, self.label_smoothing, group)

    def scores(self, patches_BPD: Tensor, words: MaskedTokens, owner_N: Tensor, scale: Tensor) -> Tensor:
        """S of every text with its own image: ``[N]``; every text must have a word.

        Args:
            patches_BPD: un-normalised.
            words: un-normalised tokens, True where there is a word.
            owner_N: the image of each text.
            scale: the factor on cosines.
        """

        def block(_: slice, texts: slice) -> Tensor:
            patches, token = patches_BPD[owner_N[texts]], words[texts]
            weight = self._weigh(token.tokens_CLD @ patches.mT)
            cosine = (unit(weight @ patches) * unit(token.tokens_CLD)).sum(2)
            floor = torch.finfo(cosine.dtype).min / 4
            score = (scale * cosine).masked_fill(~token.mask_CL, floor).logsumexp(1)
            if self.words == "mean":
                score = score - token.mask_CL.sum(1).clamp_min(1).to(score.dtype).log()
            return score[None]

        patches, width = patches_BPD.shape[1:]
        length = words.mask_CL.shape[1]
        return joined(blocks(block, 1, len(owner_N), patches * width + 3 * length * (patches + width))).squeeze(0)

    def _weigh(self, dot_NLP: Tensor) -> Tensor:
        if self.detach_weights:
            dot_NLP = dot_NLP.detach()
        if self.weights == "softmax":
            return dot_NLP.softmax(-1)
        return minmax_weights(dot_NLP, None if self.sparsify else 0.0)
