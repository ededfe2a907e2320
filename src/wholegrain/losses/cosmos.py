"""COSMOS: views of images and texts, crossed with the other side by attention, must find a teacher's views of their pair.

Kim et al., CVPR 2025, arXiv 2412.01814, section 3; released code. An image has global views (those that the teacher sees, too) and local
ones; of an image's texts the *whole* ones (roles ``whole``; the paper: one to five sentences joined) are seen by the teacher, the others
(one sentence each) are not compared with it. The student's vectors V (views) and T (texts) also come crossed, each with the other side::

    h_V = V + attention(V asks, the words of the image's first whole text answer)
    h_T = T + attention(T asks, the patches of the image's first view answer)

With ``NCE(A, B)`` the symmetric softmax over pairs of the global batch, image by image, of one view A and one view B, V', T' the teacher's::

    contrast      = mean of NCE(V_a, T_k) over global views a and all texts k                             (the model's scale)
    distillation  = 1/4 [ mean NCE(h_V_a, V'_b) + mean NCE(h_V_a, T'_l) + mean NCE(h_T_k, V'_b) + mean NCE(h_T_k, T'_l) ]
                    over all views a, all texts k, the teacher's views b and whole texts l      (a scale of its own, learned in the head)
    loss          = contrast + distillation

Local views stay out of the contrast (there they over-fit, says the released code). Nothing is learned through the teacher.

**Which texts are rivals.** As in the released code the k-th text of an image meets the k-th texts of other images (whole ones counted
apart from the rest); an image with fewer texts has fewer pairs, and every pair counts alike. So the order of an image's texts matters.

Where sources differ. The code attends to padding, too, and its teacher takes in the student before the optimiser's step; here padding is
masked and the teacher follows after the step. The paper's crops are also coloured, blurred and solarised and the local ones are 96 pixels wide; here
views are crops at the tower's size. An image without a whole text has no h_V, and hard negatives are not seen.

Duplicates: two elements are no rivals if the images are copies, or a text that either is or has seen is known to be true of the other's
image (``duplicates="ignore"``); ``"negative"``, as released: only one's own pair is left out.
Needs ``model.head = "cosmos"``, ``data.views`` and a teacher. Cost: with v views, g of them
global, and k texts, w of them whole, g k + (v + k) (g + w) symmetric softmaxes of B x B (80 in the paper's setting: 2 of 8 views, 2 of 8
texts), in bounded memory (:mod:`.tiled_softmax`); sends texts, the teacher's vectors and one number a candidate and softmax. The towers'
passes over the views cost far more.

Example:
    >>> import torch
    >>> one, part, words = torch.ones(4, 8), torch.ones(4, 2, 4), torch.ones(4, 3, 2, 4)       # four pairs that cannot be told apart
    >>> keys, teacher = words.transpose(1, 2), ImageFeatures(one)
    >>> learned = {f"cross_{side}_{name}": torch.ones(8, 8)[:, 0] if name == "D" else torch.ones(8, 8)
    ...     for side in ("image", "text") for name in ("DA", "D")} | {"cross_log_scale_1": torch.ones(1)}
    >>> image = ImageFeatures(one, keys_BGSE=keys, values_BGSE=keys, query_BGE=part, learned=learned, teacher=teacher)
    >>> text = TextFeatures(one, mask_NL=torch.ones(4, 3) > 0, query_NGE=part, keys_NLGE=words, values_NLGE=words,
    ...     teacher=TextFeatures(one))
    >>> loss = CosmosLoss()(image, text, Pairing.one_to_one(4), torch.tensor(10.0))
    >>> round((loss.value / 2).exp().item(), 4)        # ln 4 from the contrast, ln 4 from the teacher
    4.0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import linear, logsigmoid

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, at_least_float32, capped_scale, full_precision, unit
from wholegrain.losses.core.contrastive import Rest, over_processes
from wholegrain.losses.core.gather import GlobalTexts, gather_rows, gather_texts, row_counts
from wholegrain.losses.core.known_true import Duplicates, KnownTrue
from wholegrain.losses.core.tiled_softmax import tiled_softmax
from wholegrain.losses.core.tiles import Logits, Mask


@dataclass(frozen=True)
class CosmosLoss:
    """Contrast of views, and distillation of crossed views from a teacher.

    Attributes:
        whole: roles of the texts that the teacher sees and that images attend to; empty: all.
        contrast, distillation: weights of the two parts.
        duplicates: ``"ignore"`` leaves known true pairs out of the denominators; ``"negative"`` keeps them in.
    """

    whole: tuple[str, ...] = ()
    contrast: float = 1.0
    distillation: float = 1.0
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "views", "cross"})
    ranges: ClassVar[Ranges] = {"contrast": (0, 1e6), "distillation": (0, 1e6)}

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
        true = pairing.true_N.nonzero().squeeze(1)
        text, pairing = text.select(true), pairing.select_texts(true)
        if image.teacher is None or text.teacher is None or image.query_BGE is None or text.keys_NLGE is None:
            raise ValueError('CosmosLoss needs a teacher and crossed features; set teacher.kind, and model.head to "cosmos"')
        views = (image, *image.views)
        student_ND, teacher_ND = unit(text.pooled_ND), unit(text.teacher.pooled_ND)
        everyone = gather_texts(torch.cat([student_ND, teacher_ND.to(student_ND.dtype)], 1), pairing, group)
        all_student_CD, all_teacher_CD = everyone.vectors_CD.chunk(2, 1)
        slots = _Slots.of(everyone.pairing, self.whole)
        first_B = slots.first_whole(pairing, everyone)
        own_scale = capped_scale(at_least_float32(image.learned["cross_log_scale_1"])[0])
        contrasts = _Contrasts(pairing, everyone, self.duplicates, slots)

        taught = torch.stack([unit(view.teacher.pooled_BD) for view in views if view.teacher is not None], 1)
        counts = row_counts(len(image.pooled_BD), device=taught.device, group=group)[0]
        teachers = [Side(x, "images") for x in gather_rows(taught.to(student_ND.dtype), counts, group).unbind(1)]
        read = [Side(all_teacher_CD[slot], "texts", slot) for slot in slots.whole]
        global_views = [Side(unit(view.pooled_BD), "images") for view in views if view.teacher is not None]
        text_views = [Side(all_student_CD[slot], "texts", slot) for slot in slots.all]

        with_text_R = (first_B >= 0).nonzero().squeeze(1)
        crossed_VBD = _images_crossed(views, text, with_text_R, first_B[with_text_R], image)
        text_R = first_B[with_text_R] + everyone.texts_before
        joint_V = [Side(x, "images", text_R, with_text_R) for x in crossed_VBD]
        crossed_ND = _texts_crossed(image, text, pairing.owner_N)
        local = [slots.here(slot, everyone, len(crossed_ND)) for slot in slots.all]
        joint_T = [Side(crossed_ND[n], "texts", n + everyone.texts_before, pairing.owner_N[n]) for n in local]

        scale = at_least_float32(scale)
        contrasts.add("contrast", global_views, text_views, scale)
        for name, rows in (("image", joint_V), ("text", joint_T)):
            contrasts.add(f"{name}_image", rows, teachers, own_scale)
            contrasts.add(f"{name}_text", rows, read, own_scale)
        parts = contrasts.shares()
        contrast = parts["contrast"]
        distilled = torch.stack([part for name, part in parts.items() if name != "contrast"]).mean()
        logged = {name: part.detach() for name, part in parts.items()}
        return LossOutput(self.contrast * contrast + self.distillation * distilled, logged)


@dataclass(frozen=True)
class Side:
    """One view: at most one vector an image.

    Attributes:
        vectors_RD: unit vectors.
        kind: ``images`` or ``texts``.
        text_R: the text (of all processes) that each vector is, or attended to; ``None`` if none.
        image_R: of rows, the image of each (this process's); ``None``: all in order.
    """

    vectors_RD: Tensor
    kind: str
    text_R: Tensor | None = None
    image_R: Tensor | None = None


@dataclass(frozen=True)
class _Slots:
    """Texts of the global batch by their place in their image's list; each slot has at most one text an image.

    Attributes:
        whole: slots of whole texts: int64 places among all texts.
        all: these, and those of the other texts.
    """

    whole: list[Tensor]
    all: list[Tensor]

    @classmethod
    def of(cls, texts: Pairing, whole_roles: Sequence[str]) -> _Slots:
        wanted = torch.tensor([not whole_roles or role in whole_roles for role in texts.roles], device=texts.role_N.device)
        is_whole = wanted[texts.role_N]
        whole, rest = (_by_place(texts.owner_N, kind.nonzero().squeeze(1)) for kind in (is_whole, ~is_whole))
        return cls(whole, [*whole, *rest])

    def first_whole(self, pairing: Pairing, everyone: GlobalTexts) -> Tensor:
        """For each of this process's images its first whole text (this process's), or -1: int64 ``[B]``."""
        first = torch.full((len(pairing.image_id_B),), -1, dtype=torch.int64, device=pairing.owner_N.device)
        if self.whole:
            local = self.here(self.whole[0], everyone, len(pairing.owner_N))
            first[pairing.owner_N[local]] = local
        return first

    def here(self, slot: Tensor, everyone: GlobalTexts, count: int) -> Tensor:
        """The slot's texts of this process, counted among its own."""
        local = slot - everyone.texts_before
        return local[(local >= 0) & (local < count)]


def _by_place(owner_N: Tensor, chosen: Tensor) -> list[Tensor]:
    """The chosen texts: the first of each image, the second of each, and so on."""
    order = chosen[owner_N[chosen].argsort(stable=True)]
    owner = owner_N[order]
    place = torch.arange(len(order), device=owner.device) - torch.searchsorted(owner, owner)
    return [order[place == n] for n in range(int(place.max()) + 1)] if len(order) else []


def _images_crossed(
    views: Sequence[ImageFeatures], text: TextFeatures, image_R: Tensor, text_R: Tensor, first: ImageFeatures
) -> list[Tensor]:
    """Every view of the images ``image_R`` with the words of ``text_R``: unit vectors ``[R, D]``, view by view."""
    assert text.keys_NLGE is not None
    assert text.values_NLGE is not None
    assert text.mask_NL is not None
    mask = text.mask_NL[text_R][..., None, None]
    keys, values = (torch.where(mask, at_least_float32(x[text_R]), 0.0) for x in (text.keys_NLGE, text.values_NLGE))
    queries = [view.query_BGE for view in views if view.query_BGE is not None]
    query = at_least_float32(torch.stack([x[image_R] for x in queries], 1))  # [R, views, G, E]
    score = torch.einsum("rvge,rlge->rvgl", query, keys)
    floor = torch.finfo(score.dtype).min / 4
    weight = score.masked_fill(~mask[:, None, :, 0, 0].unsqueeze(2), floor).softmax(-1)
    attended = torch.einsum("rvgl,rlge->rvge", weight, values).flatten(2)
    mixed = _mixed(attended, first, "image")
    return [unit(at_least_float32(view.pooled_BD[image_R]) + mixed[:, v]) for v, view in enumerate(views)]


def _texts_crossed(image: ImageFeatures, text: TextFeatures, owner_N: Tensor) -> Tensor:
    """Every text with the patches of its image's first view: unit vectors ``[N, D]``; keys and values are not copied for texts."""
    assert image.keys_BGSE is not None
    assert image.values_BGSE is not None
    assert text.query_NGE is not None
    query_NGE, images = at_least_float32(text.query_NGE), len(image.pooled_BD)
    order = owner_N.argsort(stable=True)
    sorted_owner = owner_N[order]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(sorted_owner, sorted_owner)
    most = int(place.max()) + 1 if len(place) else 0
    dense = query_NGE.new_zeros(images, most, *query_NGE.shape[1:]).index_put((owner_N, place), query_NGE).transpose(1, 2)
    weight = (dense @ at_least_float32(image.keys_BGSE).mT).softmax(-1)  # [B, G, texts of an image, S]
    attended = (weight @ at_least_float32(image.values_BGSE)).transpose(1, 2)[owner_N, place].flatten(1)
    return unit(at_least_float32(text.pooled_ND) + _mixed(attended, image, "text"))


def _mixed(attended: Tensor, image: ImageFeatures, side: str) -> Tensor:
    weight, shift = (at_least_float32(image.learned[f"cross_{side}_{name}"]) for name in ("DA", "D"))
    return linear(attended, weight, shift)


@dataclass
class _Contrasts:
    """Symmetric softmaxes of many pairs of views; what columns need of other processes is fetched once for all.

    Attributes:
        pairing, everyone: true texts of this process and of all.
        duplicates: as in the loss.
        slots: the texts by place.
        found: name -> number of pairs in the world, and per softmax the row queries' losses, the pairs' scores and their columns.
    """

    pairing: Pairing
    everyone: GlobalTexts
    duplicates: Duplicates
    slots: _Slots
    found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = field(default_factory=dict[str, list[tuple[Tensor, Tensor, Tensor]]])
    pairs: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    columns: list[Tensor] = field(default_factory=list[Tensor])

    def add(self, name: str, rows: Sequence[Side], columns: Sequence[Side], scale: Tensor) -> None:
        """Every view of ``rows`` (this process's) with every view of ``columns`` (all processes')."""
        own = self.found.setdefault(name, [])
        count = torch.zeros((), dtype=torch.int64, device=scale.device)
        masks: dict[tuple[int, int], Mask] = {}
        for row in rows:
            for column in columns:
                image_C = self._images_of(column)
                image_R = row.image_R if row.image_R is not None else torch.arange(len(row.vectors_RD), device=scale.device)
                key = (id(row.text_R), id(column.text_R))
                if key not in masks:
                    masks[key] = self._known(row.text_R, image_R, column.text_R, image_C)
                place = torch.full((len(self.everyone.pairing.image_id_B),), -1, dtype=torch.int64, device=scale.device)
                place[image_C] = torch.arange(len(image_C), device=scale.device)
                column_R = place[image_R + self.everyone.images_before]
                row_P = (column_R >= 0).nonzero().squeeze(1)
                result = tiled_softmax(Logits(row.vectors_RD, column.vectors_RD, scale), masks[key], row_P, column_R[row_P])
                to_column = -logsigmoid(result.pair_P - result.by_row[0, row_P])
                start = sum(x.shape[1] for x in self.columns)
                self.columns.append(result.by_column)
                own.append((to_column, result.pair_P, column_R[row_P] + start))
                count = count + len(row_P)
        self.pairs[name] = count

    def shares(self) -> dict[str, Tensor]:
        """Name -> this process's share of the mean over all pairs of the mean of both directions."""
        names, group = list(self.found), self.everyone.group
        counts = [
            sum(x)
            for x in row_counts(*(int(self.pairs[name]) for name in names), device=self.everyone.vectors_CD.device, group=group)
        ]
        merged = over_processes(Rest(torch.cat(self.columns, 1)), group).stats[0] if self.columns else None
        shares: dict[str, Tensor] = {}
        for name, total in zip(names, counts, strict=True):
            share = 0 * self.everyone.vectors_CD.sum()
            for to_column, pair_P, column_P in self.found[name]:
                assert merged is not None
                share = share + (to_column.sum() - logsigmoid(pair_P - merged[column_P]).sum()) / 2
            shares[name] = share / max(total, 1)
        return shares

    def _images_of(self, side: Side) -> Tensor:
        """The image (of all processes) of each column."""
        texts = self.everyone.pairing
        if side.kind == "texts":
            return texts.owner_N[side.text_R]
        return torch.arange(len(texts.image_id_B), device=texts.owner_N.device)

    def _known(self, text_R: Tensor | None, image_R: Tensor, text_C: Tensor | None, image_C: Tensor) -> Mask:
        """Cells whose column's text is known to be true of the row's image, or the row's text of the column's image."""
        masks: list[Mask] = []
        if text_C is not None:
            masks.append(KnownTrue(self.pairing, self.everyone, self.duplicates, image_R=image_R, text_C=text_C))
        if text_R is not None:
            world = replace(self.everyone, images_before=0, texts_before=0)
            turned = KnownTrue(self.everyone.pairing, world, self.duplicates, image_R=image_C, text_C=text_R)
            masks.append(_Turned(turned))
        return masks[0] if len(masks) == 1 else _Either(masks)


@dataclass(frozen=True)
class _Turned:
    """A mask whose rows are the columns here."""

    mask: Mask

    def fill(self, tile: Tensor, rows: slice, columns: slice, value: float) -> None:
        """Writes ``value`` into the cells of ``tile [rows, columns]`` that are left out."""
        self.mask.fill(tile.T, columns, rows, value)


@dataclass(frozen=True)
class _Either:
    """What any of several masks leaves out."""

    masks: list[Mask]

    def fill(self, tile: Tensor, rows: slice, columns: slice, value: float) -> None:
        """Writes ``value`` into the cells of ``tile [rows, columns]`` that are left out."""
        for mask in self.masks:
            mask.fill(tile, rows, columns, value)
