"""Which texts of the global batch are known to be true of which image, tile by tile.

A text is known to be true of an image if it is the image's own; with ``duplicates="ignore"`` also if it has the same words as one of the
image's own, or belongs to a copy of the image (or has the same words as a text of a copy). No matrix of images and texts is made:
own texts are found by search in sorted owners, duplicates through the groups of equal ids, for the cells of one tile at a time, and
only among the images and texts that have a duplicate at all.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from wholegrain.features import Pairing
from wholegrain.losses.core.gather import GlobalTexts
from wholegrain.losses.core.typed_torch import groups

Duplicates = Literal["ignore", "negative"]


class KnownTrue:
    """Cells (image, text) of a score matrix in which the text is known to be true of the image.

    Args:
        pairing: this process's pairing; its images are the rows.
        everyone: the texts of the global batch; they are the columns.
        duplicates: ``"ignore"``: own texts, texts with the same words as one of these, and texts of copies of the image;
            ``"negative"``: own texts alone.
        image_R: the image of each row (0..B-1, this process's), if rows are not just the images.
        text_C: the text (of ``everyone``) of each column, if columns are not just the texts.
    """

    def __init__(
        self,
        pairing: Pairing,
        everyone: GlobalTexts,
        duplicates: Duplicates,
        *,
        image_R: Tensor | None = None,
        text_C: Tensor | None = None,
    ) -> None:
        texts, images = everyone.pairing, len(pairing.image_id_B)
        device = texts.owner_N.device
        self.image_R = torch.arange(images, device=device) if image_R is None else image_R
        owner = texts.owner_N - everyone.images_before
        owner = torch.where(texts.true_N & (owner >= 0) & (owner < images), owner, -1)
        self.owner_C = owner if text_C is None else owner[text_C]
        rows = len(self.image_R)
        self.place_R = (self.image_R * rows + torch.arange(rows, device=device)).sort().values  # by image, then by row
        self.groups = None if duplicates == "negative" else _groups(pairing, everyone, owner, self.image_R, text_C)

    def pairs(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Rows and columns, counted within the tile ``[rows, columns]``, of its known cells; none twice, in no order."""
        # rows of image i stand in ``place_R`` as the numbers i * count to (i + 1) * count, sorted, so those within the tile are one stretch
        count, first = len(self.image_R), self.owner_C[columns] * len(self.image_R)
        start = torch.searchsorted(self.place_R, first + rows.start)  # nothing is found for owner -1
        number = torch.searchsorted(self.place_R, first + rows.stop) - start
        column = torch.arange(len(first), device=first.device).repeat_interleave(number)
        nth = torch.arange(len(column), device=first.device) - (number.cumsum(0) - number)[column]
        row = self.place_R[start[column] + nth] % max(count, 1) - rows.start
        if self.groups is None:
            return row, column
        other_row, other_column = self.groups.pairs(rows, columns)
        other = self.image_R[rows][other_row] != self.owner_C[columns][other_column]
        return torch.cat([row, other_row[other]]), torch.cat([column, other_column[other]])

    def fill(self, tile: Tensor, rows: slice, columns: slice, value: float) -> None:
        """Writes ``value`` into the known cells of ``tile [rows, columns]``."""
        tile[self.pairs(rows, columns)] = value

    def __call__(self, rows: slice) -> Tensor:
        """True at the known cells of these rows: bool ``[rows, C]``."""
        rows = slice(*rows.indices(len(self.image_R))[:2])
        known = torch.zeros(rows.stop - rows.start, len(self.owner_C), dtype=torch.bool, device=self.owner_C.device)
        known[self.pairs(rows, slice(0, len(self.owner_C)))] = True
        return known


class _Groups:
    """Equal images and equal texts; of rows and columns without a duplicate the group is -1, for their own pairs are all."""

    def __init__(self, image_R: Tensor, text_C: Tensor, image_F: Tensor, text_F: Tensor, counts: tuple[int, int]) -> None:
        self.image_R, self.text_C = image_R, text_C
        self.image_F, self.text_F = image_F, text_F  # facts: the text is true of the image
        self.counts = counts

    def pairs(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """As :meth:`KnownTrue.pairs`, of rows and columns that have a duplicate."""
        row, column = (self.image_R[rows] >= 0).nonzero().squeeze(1), (self.text_C[columns] >= 0).nonzero().squeeze(1)
        if len(row) == 0 or len(column) == 0:
            return row[:0], column[:0]
        image_place, row_place = _places(self.image_R[rows][row], self.counts[0])
        text_place, column_place = _places(self.text_C[columns][column], self.counts[1])
        image, text = image_place[self.image_F], text_place[self.text_F]
        here = (image >= 0) & (text >= 0)
        known = torch.zeros(len(row), len(column), dtype=torch.bool, device=row.device)
        known[image[here], text[here]] = True
        r, c = known[row_place][:, column_place].nonzero().unbind(1)
        return row[r], column[c]


def _places(group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """One place for each group that occurs, -1 for others; and each member's place."""
    place = torch.full((groups,), -1, dtype=torch.int64, device=group.device)
    place[group] = torch.arange(len(group), device=group.device)
    return place, place[group]


def _groups(pairing: Pairing, everyone: GlobalTexts, owner_N: Tensor, image_R: Tensor, text_C: Tensor | None) -> _Groups | None:
    """The groups, ``None`` if nothing occurs twice. ``owner_N`` is -1 unless the text is true and its image is here."""
    texts, before = everyone.pairing, everyone.images_before
    image_ids, image_B, image_count = groups(texts.image_id_B)
    text_ids, text_N, text_count = groups(texts.text_id_N)
    if len(image_ids) == len(image_B) and len(text_ids) == len(text_N):
        return None
    copied_N = (image_count[image_B] > 1)[texts.owner_N] & texts.true_N
    shared_N = (text_count[text_N] > 1) | copied_N
    own_B = image_B[before : before + len(pairing.image_id_B)]
    involved_B = image_count[own_B] > 1
    involved_B[owner_N[shared_N & (owner_N >= 0)]] = True
    fact = texts.true_N & shared_N
    column_C = torch.where(shared_N, text_N, -1)
    return _Groups(
        torch.where(involved_B, own_B, -1)[image_R],
        column_C if text_C is None else column_C[text_C],
        image_B[texts.owner_N[fact]],
        text_N[fact],
        (len(image_ids), len(text_ids)),
    )


def own_foils(pairing: Pairing, everyone: GlobalTexts, duplicates: Duplicates) -> Tensor:
    """This process's hard negatives; under ``"ignore"`` without those known to be true of their image: int64 ``[M]``."""
    foil = (~pairing.true_N).nonzero().squeeze(1)
    if duplicates == "negative":
        return foil
    texts, true = everyone.pairing, everyone.pairing.true_N
    images = torch.cat([texts.image_id_B[texts.owner_N[true]], pairing.image_id_B[pairing.owner_N[foil]]])
    words = torch.cat([texts.text_id_N[true], pairing.text_id_N[foil]])
    word_ids, word, _ = groups(words)
    pair = groups(images)[1] * len(word_ids) + word
    facts = len(pair) - len(foil)
    return foil[~torch.isin(pair[facts:], pair[:facts])]
