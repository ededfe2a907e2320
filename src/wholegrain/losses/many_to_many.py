"""Holistic CLIP's many-to-many contrast: each of an image's texts is matched by the branch of the image that is meant for it.

With v[i,h] branch h of image i, t[n] a text in position k (its role, or its place in the image's list), b = b(n) its branch::

    image to text:  CE of v[i,b] . t[n] against the texts in position k of other images, all seen by v[i,b]
    text to image:  CE of v[i,b] . t[n] against v[j,b] of every other image j: each image through the branch chosen for THIS text
    loss = mean over all true texts of the global batch of the mean of both, logits = scale * cosine

Wang et al., CVPR 2025, arXiv 2412.00440, and its released code. With one branch and one text an image this is CLIP.

``assignment="role"`` (default): position = role, branch = place of the role in ``roles``; roles not listed, or beyond the last
branch, choose freely. ``"positional"``: position = place among the image's true texts, branch m for text m, surplus texts
choose freely: the release, with list order as role. ``"argmax"``: every text chooses freely: the branch of its own image with
the largest cosine, without gradient through the choice ("free matching").

Differences. The release needs as many texts for every image; here a missing caption is absent and the denominator counts what is
there. With more branches than texts the release lets every text choose; ``"positional"`` here binds text m to branch m as long as
there is one; take ``"argmax"`` for the release's rule. The paper is said to match by the Hungarian method; no such code exists.
Its optional full contrast (weight 0.01, off) is ``negatives="all"`` with ``same_image="positive"`` on the image-to-text side.

``negatives="all"``: rivals are the texts of other images in every position, and every branch of other images.
``same_image="positive"``: v[i,b] has the image's other texts in scope as further targets, each in a softmax of its own with the
same rivals, averaged over the query's targets; by default they are neither positive nor negative. Under a text, the other
branches of its own image always are neither.

Hard negatives are not seen. Duplicates: ignored (``duplicates="ignore"``), or ``"negative"`` as in the release.
Cost: (H x B_local + N_local) x N x D multiply-adds forward; sends each text's vector once.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> image = ImageFeatures(torch.ones(4, 8), branches_BHD=torch.ones(4, 2, 8))
    >>> loss = ManyToManyLoss()(image, TextFeatures(torch.ones(4, 8)), Pairing.one_to_one(4), torch.tensor(10.0))
    >>> round(loss.value.exp().item(), 4)    # four candidates that cannot be told apart
    4.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.contract import LossOutput, State, at_least_float32, full_precision, unit
from wholegrain.losses.contrastive import Duplicates, KnownTrue, Rest, compare, mean_of_both, over_processes
from wholegrain.losses.gather import GlobalTexts, gather_rows, gather_texts, row_counts


@dataclass(frozen=True)
class ManyToManyLoss:
    """Branches of images against texts, each text through its branch.

    Attributes:
        assignment: what a text's position and branch are: ``"role"``, ``"positional"`` or ``"argmax"``.
        roles: of ``"role"``: branch h is for role ``roles[h]``; with none listed every text chooses freely.
        negatives: rivals in the ``"same_position"`` (the release) or in ``"all"``.
        same_image: an image's other texts are neither (``"ignore"``) or further ``"positive"`` ones of its branch.
        duplicates: ``"ignore"`` leaves known true pairs out of the denominators; ``"negative"`` keeps them in.
    """

    assignment: Literal["role", "positional", "argmax"] = "role"
    roles: tuple[str, ...] = ()
    negatives: Literal["same_position", "all"] = "same_position"
    same_image: Literal["ignore", "positive"] = "ignore"
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset({"branches"})

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
        if image.branches_BHD is None:
            raise ValueError("ManyToManyLoss needs branches_BHD; use a model whose head has branches")
        true, branch_BHD, scale = pairing.true_N, unit(image.branches_BHD), at_least_float32(scale)
        pairing, text_ND = pairing.select_texts(true), unit(text.pooled_ND[true])
        position_N, branch_N = self.assign(branch_BHD, text_ND, pairing)
        everyone = gather_texts(text_ND, pairing, group)
        counts = row_counts(len(text_ND), device=text_ND.device, group=group)[0]
        position_C, branch_C = gather_rows(torch.stack([position_N, branch_N], 1), counts, group).unbind(1)

        query_ND = branch_BHD[pairing.owner_N, branch_N]  # an image through the branch of its text
        true_N = scale * (query_ND * text_ND).sum(1)
        known = KnownTrue(pairing, everyone, self.duplicates)
        to_text = self._to_text(query_ND, text_ND, true_N, position_N, position_C, pairing, everyone, known, scale)
        rest = self._to_image(branch_BHD, branch_C, everyone, known, scale)
        to_image = rest[torch.arange(len(text_ND), device=text_ND.device) + everyone.texts_before].cross_entropy(true_N)
        texts = max(len(position_C), 1)
        return mean_of_both(to_text.sum() / texts, to_image.sum() / texts)

    def assign(self, branch_BHD: Tensor, text_ND: Tensor, pairing: Pairing) -> tuple[Tensor, Tensor]:
        """Each true text's position and branch: int64 ``[N]`` twice. ``branch_BHD`` and ``text_ND`` are unit vectors."""
        branches = branch_BHD.shape[1]
        if self.assignment == "role":
            place = {role: h for h, role in enumerate(self.roles)}
            of_role = [place.get(role, len(place) + r) for r, role in enumerate(pairing.roles)]
            position_N = torch.tensor(of_role, dtype=torch.int64, device=text_ND.device)[pairing.role_N]
            bound = position_N < min(branches, len(place))
        else:
            position_N = _place_in_image(pairing.owner_N)
            bound = (position_N < branches) & (self.assignment == "positional")
        with torch.no_grad():
            favourite_N = torch.einsum("nhd,nd->nh", branch_BHD[pairing.owner_N], text_ND).argmax(1)
        return position_N, torch.where(bound, position_N, favourite_N)

    def _to_text(
        self,
        query_ND: Tensor,
        text_ND: Tensor,
        true_N: Tensor,
        position_N: Tensor,
        position_C: Tensor,
        pairing: Pairing,
        everyone: GlobalTexts,
        known: KnownTrue,
        scale: Tensor,
    ) -> Tensor:
        """The loss of every pair's image over texts: ``[N]``."""
        anywhere = self.negatives == "all"
        owner_N = pairing.owner_N

        def left_out(rows: slice) -> Tensor:
            out = known(owner_N[rows])
            return out if anywhere else out | (position_N[rows, None] != position_C)

        rest = compare(lambda rows: scale * (query_ND[rows] @ everyone.vectors_CD.T), left_out, len(query_ND), len(position_C))[0]
        if self.same_image == "ignore":
            return rest.cross_entropy(true_N)
        target_NN = (owner_N[:, None] == owner_N) & (anywhere | (position_N[:, None] == position_N))
        query, target = target_NN.nonzero().unbind(1)
        each = rest[query].cross_entropy(scale * (query_ND[query] * text_ND[target]).sum(1))
        return torch.zeros_like(true_N).index_add(0, query, each / target_NN.sum(1)[query])

    def _to_image(self, branch_BHD: Tensor, branch_C: Tensor, everyone: GlobalTexts, known: KnownTrue, scale: Tensor) -> Rest:
        """What every text of the global batch is compared with among the branches of images."""
        images, branches = branch_BHD.shape[:2]
        flat_RD = branch_BHD.flatten(0, 1)
        place = torch.arange(images * branches, device=flat_RD.device)
        image_R, branch_R = place // branches, place % branches

        def left_out(rows: slice) -> Tensor:
            out = known(image_R[rows])
            return out if self.negatives == "all" else out | (branch_R[rows, None] != branch_C)

        rest = compare(lambda rows: scale * (flat_RD[rows] @ everyone.vectors_CD.T), left_out, len(flat_RD), len(branch_C))[1]
        return over_processes(rest, everyone.group)


def _place_in_image(owner_N: Tensor) -> Tensor:
    """How many texts of the same image come before each text: ``[N]``."""
    order = owner_N.argsort(stable=True)
    owner = owner_N[order]
    place = torch.empty_like(owner_N)
    place[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(owner, owner)
    return place
