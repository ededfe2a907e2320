"""MGCA's prototypes: an image and its text should belong to the same cluster, whose centres are learned.

K unit prototypes c[k]; y[x,k] = cos(x, c[k]) for an image or a text x::

    p(x) = softmax over k of y[x] / 0.2                       prediction, with gradient
    q(x) = Sinkhorn-Knopp of exp(y / 0.05), 3 rounds          target, without: all prototypes are used equally often
    loss = mean over pairs of -1/2 [ q(image) . log p(text) + q(text) . log p(image) ]

Wang et al., NeurIPS 2022, arXiv 2210.06044, term CPA, and its released code (K = 500; weight 0.5; in SPARC's re-implementation 1).
The targets of images and of texts are balanced apart, each over the global batch.

Where sources differ. The code puts the prototypes back to unit length before every step; here they are normalised in the loss,
which is the same function. It holds them still in the first epoch; here for the first ``frozen_steps`` steps. Sinkhorn-Knopp is
invariant to a factor on all of exp(y / 0.05): the largest y is taken off first, so nothing overflows. An image of several texts
is balanced once and is in a pair with each.

Hard negatives are not seen. Duplicates: play no part. Needs ``model.head = "mgca"``, which owns the prototypes.
Cost: (B_local + N_local) x K x D multiply-adds forward; sends K numbers a round.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> centres = {"prototypes_KD": torch.eye(4)}
    >>> loss = MgcaPrototypesLoss()(ImageFeatures(torch.eye(4), learned=centres), TextFeatures(torch.eye(4)),
    ...     Pairing.one_to_one(4), torch.tensor(10.0))
    >>> round(loss.value.item(), 4)        # each pair in a cluster of its own: ln(1 + 3 e^-5)
    0.02
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, full_precision, unit
from wholegrain.losses.core.gather import max_over, sum_over


@torch.no_grad()
def balanced(similarity_MK: Tensor, epsilon: float = 0.05, rounds: int = 3, group: dist.ProcessGroup | None = None) -> Tensor:
    """Soft clusters ``[M, K]`` of the M samples of this process: rows sum to 1, clusters are filled equally over all processes.

    Args:
        similarity_MK: cosines of samples and prototypes.
        epsilon: temperature; the smaller, the harder.
        rounds: of Sinkhorn-Knopp, each balancing clusters, then samples.

    Example:
        >>> balanced(torch.zeros(2, 4)).tolist()
        [[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]
    """
    peak = similarity_MK.max() if len(similarity_MK) else similarity_MK.new_tensor(-torch.inf)
    weight = ((similarity_MK - max_over(peak, group)) / epsilon).exp()
    for _ in range(rounds):
        filled_K = sum_over(weight.sum(0), group).clamp_min(torch.finfo(weight.dtype).tiny)
        weight = weight / filled_K
        weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    return weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)


@dataclass(frozen=True)
class MgcaPrototypesLoss:
    """Swapped prediction of balanced clusters.

    Attributes:
        temperature: of the prediction, in cosines, above 0.
        epsilon: temperature of the targets, in cosines, above 0.
        rounds: of Sinkhorn-Knopp, 1 or more.
        frozen_steps: steps for which the prototypes get no gradient (the code: one epoch).
    """

    temperature: float = 0.2
    epsilon: float = 0.05
    rounds: int = 3
    frozen_steps: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"prototypes"})
    ranges: ClassVar[Ranges] = {
        "temperature": (1e-12, 1e3),
        "epsilon": (1e-12, 1e3),
        "rounds": (1, 1000),
        "frozen_steps": (0, 10**9),
    }

    def initial_state(self, kinds: Sequence[str]) -> dict[str, Tensor]:
        """``step``: how many steps were taken."""
        return {"step": torch.zeros((), dtype=torch.int64)}

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
        if "prototypes_KD" not in image.learned:
            raise ValueError('MgcaPrototypesLoss needs prototypes; set model.head to "mgca"')
        step = torch.zeros((), dtype=torch.int64) if state is None else state["step"]
        prototypes_KD = unit(image.learned["prototypes_KD"])
        if int(step) < self.frozen_steps:  # a gradient of zero, since DDP waits for every parameter's
            prototypes_KD = prototypes_KD.detach() + 0 * prototypes_KD
        true, owner_P = pairing.true_N, pairing.owner_N[pairing.true_N]
        image_BK = unit(image.pooled_BD) @ prototypes_KD.T
        text_PK = unit(text.pooled_ND[true]) @ prototypes_KD.T
        image_target_BK = balanced(image_BK, self.epsilon, self.rounds, group)
        text_target_PK = balanced(text_PK, self.epsilon, self.rounds, group)
        pairs = sum_over(owner_P.new_tensor(len(owner_P)), group).clamp_min(1)
        to_text = -(image_target_BK[owner_P] * (text_PK / self.temperature).log_softmax(1)).sum() / pairs
        to_image = -(text_target_PK * (image_BK / self.temperature).log_softmax(1)[owner_P]).sum() / pairs
        parts = {"image_to_text": to_text.detach(), "text_to_image": to_image.detach()}
        return LossOutput((to_text + to_image) / 2, parts, {"step": step + 1})
