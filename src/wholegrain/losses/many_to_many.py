"""Holistic CLIP's many-to-many contrast: each of an image's texts is matched by the branch of the image that is meant for it.

With v[i,h] branch h of image i, t[n] a text in position k (its role, or its place in the image's list), b = b(n) its branch::

    image to text:  CE of v[i,b] . t[n] against the texts in position k of other images, all seen by v[i,b]
    text to image:  CE of v[i,b] . t[n] against v[j,b] of every other image j: each image through the branch chosen for THIS text
    loss = mean over all true texts of the global batch of the mean of both, logits = scale * cosine

Wang et al., CVPR 2025, arXiv 2412.00440, and its released code. With one branch and one text an image this is CLIP.

``assignment="role"`` (default): position = role, branch = place of the role in ``roles``; roles not listed, or beyond the
last branch, choose freely. An entry such as ``"detail|overview"`` binds either role, ``"*"`` every role that no other entry
names. ``"positional"``: position = place among the image's true texts, branch m for text m, surplus texts choose freely: the
release, with list order as role. ``"argmax"``: every text chooses freely: the branch of its own image with the largest
cosine, without gradient through the choice ("free matching"). ``"hungarian"``: an image's texts and branches are matched one
to one so that the sum of their cosines is largest (Kuhn 1955; scipy's ``linear_sum_assignment``), without gradient through
the choice; texts left over choose freely; position = the branch: texts are rivals if the same branch has them, in whatever
order they are listed.

Differences. The release needs as many texts for every image; here a missing caption is absent and the denominator counts what
is there. With more branches than texts the release lets every text choose; ``"positional"`` here binds text m to branch m as
long as there is one; take ``"argmax"`` for the release's rule. The paper is said (by others; we could not read it) to match
by the Hungarian method; the release has no such code, and what texts are rivals then is not known: ``"hungarian"`` is our
reading. Its optional full contrast (weight 0.01, off) is ``negatives="all"`` with ``same_image="positive"`` on the
image-to-text side.

Which to take: with roles in the data, ``"role"``: a branch then means something. ``"argmax"`` can leave branches unused
(branches that start equal, as MLP branches do, all lose to the first); ``"hungarian"`` uses as many as an image has texts.

``negatives="all"``: rivals are the texts of other images in every position, and every branch of other images.
``same_image="positive"``: v[i,b] has the image's other texts in scope as further targets, each in a softmax of its own with the
same rivals, averaged over the query's targets; by default they are neither positive nor negative. Under a text, the other
branches of its own image always are neither.

Hard negatives are not seen.
Duplicates: ignored (``duplicates="ignore"``), or ``"negative"`` as in the release; with ``"hungarian"`` an image
decides which branch its text takes, and so whose rival the text is.
Cost: (H x B_local + N_local) x N x D multiply-adds forward; sends each text's vector once. ``"hungarian"`` solves one
assignment of H x M numbers an image on the processor, some 50 microseconds each, for which a GPU has to wait.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> image = ImageFeatures(torch.ones(4, 8), branches_BHD=torch.ones(4, 2, 8))
    >>> loss = ManyToManyLoss()(image, TextFeatures(torch.ones(4, 8)), Pairing.one_to_one(4), torch.tensor(10.0))
    >>> round(loss.value.exp().item(), 4)    # four candidates that cannot be told apart
    4.0
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.contrastive import Rest, mean_of_both, over_processes
from wholegrain.losses.core.gather import GlobalTexts, gather_rows, gather_texts, row_counts
from wholegrain.losses.core.known_true import Duplicates, KnownTrue
from wholegrain.losses.core.tiled_softmax import tiled_softmax
from wholegrain.losses.core.tiles import Logits
from wholegrain.losses.core.typed_torch import groups, integers, run_lengths


@dataclass(frozen=True)
class ManyToManyLoss:
    """Branches of images against texts, each text through its branch.

    Attributes:
        assignment: what a text's position and branch are: ``"role"``, ``"positional"``, ``"argmax"`` or ``"hungarian"``.
        roles: of ``"role"``: branch h is for role ``roles[h]`` (``|``, ``*``: see the module); with none listed, all choose freely.
        negatives: rivals in the ``"same_position"`` (the release) or in ``"all"``.
        same_image: an image's other texts are neither (``"ignore"``) or further ``"positive"`` ones of its branch.
        duplicates: ``"ignore"`` leaves known true pairs out of the denominators; ``"negative"`` keeps them in.
    """

    assignment: Literal["role", "positional", "argmax", "hungarian"] = "role"
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

        to_text = self._to_text(branch_BHD, branch_N, position_N, position_C, pairing, everyone, scale)
        to_image = self._to_image(branch_BHD, branch_N, branch_C, pairing, everyone, scale)
        texts = max(len(position_C), 1)
        return mean_of_both(to_text.sum() / texts, to_image.sum() / texts)

    def assign(self, branch_BHD: Tensor, text_ND: Tensor, pairing: Pairing) -> tuple[Tensor, Tensor]:
        """Each true text's position and branch: int64 ``[N]`` twice. ``branch_BHD`` and ``text_ND`` are unit vectors."""
        branches = branch_BHD.shape[1]
        with torch.no_grad():
            cosine_NH = torch.einsum("nhd,nd->nh", branch_BHD[pairing.owner_N], text_ND)
            if self.assignment == "hungarian":
                matched_N = _matched(cosine_NH, pairing.owner_N)
                return matched_N, matched_N
            favourite_N = cosine_NH.argmax(1)
        if self.assignment == "role":
            place = {role: h for h, entry in enumerate(self.roles) for role in entry.split("|")}
            of_role = [place.get(role, place.get("*", len(self.roles) + r)) for r, role in enumerate(pairing.roles)]
            position_N = torch.tensor(of_role, dtype=torch.int64, device=text_ND.device)[pairing.role_N]
            bound = position_N < min(branches, len(self.roles))
        else:
            position_N = _place_in_image(pairing.owner_N)
            bound = (position_N < branches) & (self.assignment == "positional")
        return position_N, torch.where(bound, position_N, favourite_N)

    def _to_text(
        self,
        branch_BHD: Tensor,
        branch_N: Tensor,
        position_N: Tensor,
        position_C: Tensor,
        pairing: Pairing,
        everyone: GlobalTexts,
        scale: Tensor,
    ) -> Tensor:
        """The loss of every pair's image over texts: ``[N]``."""
        owner_N = pairing.owner_N
        query_ND = branch_BHD[owner_N, branch_N]  # an image through the branch of its text
        query, target = self._targets(pairing, position_N)
        known = KnownTrue(pairing, everyone, self.duplicates, image_R=owner_N)
        left_out = known if self.negatives == "all" else _OrElsewhere(known, position_N, position_C)
        found = tiled_softmax(Logits(query_ND, everyone.vectors_CD, scale), left_out, query, target + everyone.texts_before)
        each = Rest(found.by_row)[query].cross_entropy(found.pair_P)
        targets = torch.bincount(query, minlength=len(owner_N))
        return torch.zeros_like(found.by_row[0]).index_add(0, query, each / targets[query])

    def _targets(self, pairing: Pairing, position_N: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (query, text): every text's own, and the other targets of its image's branch."""
        if self.same_image == "ignore":
            every = torch.arange(len(position_N), device=position_N.device)
            return every, every
        place = pairing.owner_N
        if self.negatives != "all":
            place = groups(torch.stack([place, position_N], 1), dim=0)[1]
        order = place.argsort(stable=True)
        ordered = place[order]
        first, last = torch.searchsorted(ordered, place), torch.searchsorted(ordered, place, right=True)
        query = torch.arange(len(place), device=place.device).repeat_interleave(last - first)
        nth = torch.arange(len(query), device=place.device) - ((last - first).cumsum(0) - (last - first))[query]
        return query, order[first[query] + nth]

    def _to_image(
        self, branch_BHD: Tensor, branch_N: Tensor, branch_C: Tensor, pairing: Pairing, everyone: GlobalTexts, scale: Tensor
    ) -> Tensor:
        """The loss of every text over the branches of images: ``[N]``."""
        images, branches = branch_BHD.shape[:2]
        place = torch.arange(images * branches, device=branch_BHD.device)
        known = KnownTrue(pairing, everyone, self.duplicates, image_R=place // branches)
        left_out = known if self.negatives == "all" else _OrElsewhere(known, place % branches, branch_C)
        text = torch.arange(len(branch_N), device=place.device) + everyone.texts_before
        logits = Logits(branch_BHD.flatten(0, 1), everyone.vectors_CD, scale)
        found = tiled_softmax(logits, left_out, pairing.owner_N * branches + branch_N, text)
        return over_processes(Rest(found.by_column), everyone.group)[text].cross_entropy(found.pair_P)


@dataclass(frozen=True)
class _OrElsewhere:
    """Cells that are known to be true, or whose row and column have different positions."""

    known: KnownTrue
    position_R: Tensor
    position_C: Tensor

    def fill(self, tile: Tensor, rows: slice, columns: slice, value: float) -> None:
        self.known.fill(tile, rows, columns, value)
        tile.masked_fill_(self.position_R[rows, None] != self.position_C[columns], value)


def _matched(cosine_NH: Tensor, owner_N: Tensor) -> Tensor:
    """The branch of each text in the best one-to-one matching within its image, or its favourite if none is left: ``[N]``."""
    assign = importlib.import_module("scipy.optimize").linear_sum_assignment  # here, for it takes a second or two to import
    branch_N = cosine_NH.argmax(1).cpu()
    cosines, owner = cosine_NH.cpu(), owner_N.cpu()
    order = owner.argsort(stable=True)
    for texts in torch.split(order, integers(run_lengths(owner[order]))):
        text, branch = assign(cosines[texts], maximize=True)
        branch_N[texts[torch.as_tensor(text)]] = torch.as_tensor(branch)
    return branch_N.to(owner_N.device)


def _place_in_image(owner_N: Tensor) -> Tensor:
    """How many texts of the same image come before each text: ``[N]``."""
    order = owner_N.argsort(stable=True)
    owner = owner_N[order]
    place = torch.empty_like(owner_N)
    place[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(owner, owner)
    return place
