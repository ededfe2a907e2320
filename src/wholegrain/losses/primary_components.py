"""Long-CLIP's primary component matching: short captions meet an image reduced to what varies most over the batch.

With v[i] the images' unit vectors, m their mean over the global batch and V the k leading eigenvectors of their covariance::

    v'[i] = m + V V^T (v[i] - m)                                                       "k primary components"
    loss  = CLIP's loss of the scores s v'[i] . t[n]: mean over pairs of 1/2 [ CE over texts + CE over images ]

A long caption says the details of a picture, a short one its gist. Trained on both alike, the image's vector must be near to both;
so the short one is compared with a coarse vector alone, and details stay free to be what the long one says (Zhang et al., ECCV 2024, arXiv
2403.15378, section 3.3: decomposition by PCA, filtration of its k largest components, reconstruction; code beichenzbc/Long-CLIP@3966af9,
``model/model_longclip.py``). Long captions have a term ``clip`` of their own, with whole vectors. v' is not brought to length one again.

Where sources differ. The release takes the components over the images of one device (128 of 2,048) and differentiates a whole SVD, whose
gradient is not finite where two singular values are equal. Here they are those of the global batch, one covariance summed over processes;
and the gradient is that of the projector, which knows gaps between kept and dropped eigenvalues alone. Where the k-th and the next eigenvalue
are equal there is no derivative, and what lies between them is taken as constant. The release began with a weight of 0.1 and now has 1.

Know before use. With k of at least images - 1, or D, nothing is taken away: this is CLIP. The release has k = 32 of 512 or 768 dimensions.
Every image has a part in the components, so each is compared with every caption through them, copies, too.
Duplicates: no rivals of each other (``duplicates="ignore"``), or as released ``"negative"``. Hard negatives are not seen.
Cost: as CLIP, and B_local x D^2 + 10 D^3 for the components, in float64; sends each text's vector and a covariance, D x D, once.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> same = torch.ones(4, 8)
    >>> loss = PrimaryComponentsLoss()(ImageFeatures(same), TextFeatures(same), Pairing.one_to_one(4), torch.tensor(10.0))
    >>> round(loss.value.exp().item(), 4)    # four candidates that cannot be told apart
    4.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.contrastive import pair_softmax
from wholegrain.losses.core.gather import add_over, gather_texts, sum_over
from wholegrain.losses.core.known_true import Duplicates
from wholegrain.losses.core.tiles import Logits
from wholegrain.losses.core.typed_torch import eigh


@dataclass(frozen=True)
class PrimaryComponentsLoss:
    """CLIP's loss against images reduced to their primary components.

    Attributes:
        components: k, how many are kept.
        label_smoothing: 0..1, spread evenly over a query's candidates.
        duplicates: ``"ignore"`` leaves known true pairs out of the denominators; ``"negative"`` keeps them in.
    """

    components: int = 32
    label_smoothing: float = 0.0
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset()
    ranges: ClassVar[Ranges] = {"components": (1, 10**6), "label_smoothing": (0, 1)}

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"components = {self.components} is not allowed; it must be 1 or more")

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
        reduced_BD = reduced(unit(image.pooled_BD), self.components, group)
        pairs, text_ND = pairing.select_texts(pairing.true_N), unit(text.pooled_ND[pairing.true_N])
        everyone = gather_texts(text_ND, pairs, group)
        logits = Logits(reduced_BD, everyone.vectors_CD, at_least_float32(scale))
        pair_P = torch.arange(len(text_ND), device=text_ND.device)
        return pair_softmax(logits, pair_P, pairs, everyone, duplicates=self.duplicates, smoothing=self.label_smoothing)


def reduced(x_BD: Tensor, components: int, group: dist.ProcessGroup | None = None) -> Tensor:
    """The vectors without all but the ``components`` directions in which those of all processes vary most, ``[B, D]``.

    Example:
        >>> reduced(torch.tensor([[4.0, 1.0], [-4.0, 1.0], [0.0, 3.0], [0.0, -1.0]]), 1).round(decimals=4).tolist()
        [[4.0, 1.0], [-4.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    """
    exact_BD = x_BD if x_BD.device.type == "mps" else x_BD.double()  # which has no float64
    count = sum_over(exact_BD.new_tensor(float(len(x_BD))), group).clamp_min(1)
    mean_D = add_over(exact_BD.sum(0), group) / count
    centred_BD = exact_BD - mean_D
    scatter_DD = add_over(centred_BD.T @ centred_BD, group)
    projector_DD: Tensor = _Projector.apply(scatter_DD, components)  # pyright: ignore[reportAssignmentType]
    return (mean_D + centred_BD @ projector_DD).to(x_BD.dtype)


class _Context(Protocol):
    """What a forward pass leaves for its backward pass."""

    saved_tensors: tuple[Tensor, ...]
    kept: int

    def save_for_backward(self, *tensors: Tensor) -> object: ...


class _Projector(torch.autograd.Function):
    """On the leading eigenvectors of a symmetric matrix. With dA between eigenvectors i (kept) and j (dropped)::

        dP = sum_ij (v_j^T dA v_i) / (l_i - l_j) (v_i v_j^T + v_j v_i^T)

    where the gap is more than rounding; what lies within the kept ones, or the dropped ones, does not move the projector.
    """

    @staticmethod
    def forward(ctx: _Context, matrix_DD: Tensor, components: int) -> Tensor:
        if not bool(matrix_DD.isfinite().all()):  # eigh would raise; a loss that is no number is the trainer's affair
            value_D, vector_DD = matrix_DD[0] * torch.nan, matrix_DD * torch.nan
        else:
            value_D, vector_DD = eigh(matrix_DD)  # ascending
        ctx.kept = min(components, len(value_D))
        ctx.save_for_backward(value_D, vector_DD)
        kept_DK = vector_DD[:, len(value_D) - ctx.kept :]
        return kept_DK @ kept_DK.T

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor, None]:
        value_D, vector_DD = ctx.saved_tensors
        dropped = len(value_D) - ctx.kept
        low, high = vector_DD[:, :dropped], vector_DD[:, dropped:]
        gap = value_D[None, dropped:] - value_D[:dropped, None]
        rounding = value_D.abs().amax() * len(value_D) * torch.finfo(value_D.dtype).eps
        apart = gap > rounding
        symmetric = (grads[0] + grads[0].T) / 2
        moved = torch.where(apart, (low.T @ symmetric @ high) / torch.where(apart, gap, 1.0), 0.0)
        half = low @ moved @ high.T
        return half + half.T, None
