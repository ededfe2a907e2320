"""What the references of the losses share: a batch as Python lists, and the arithmetic of single pairs.

A *reference* is a packaged loss once more, as loops over single samples, written from the published formula: ``verify/losses`` has one
for each loss. Everything is differentiable, so gradients can be compared, too. Nothing is shared with the losses but their settings
and the tensor types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from typing import TypeVar

import torch
from torch import Tensor

from wholegrain.losses.core.contract import State
from wholegrain.verify.cases import Batch

T = TypeVar("T")


dot = torch.dot


def cos(a: Tensor, b: Tensor) -> Tensor:
    return dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())


def unit(a: Tensor) -> Tensor:
    return a / dot(a, a).sqrt()


def lse(logits: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(logits)).logsumexp(0)


def softmax(logits: Iterable[Tensor]) -> list[Tensor]:
    raised = torch.stack(list(logits)).exp()
    return list(raised / raised.sum())


def total(each: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(each)).sum()


def mean(each: Sequence[Tensor], *inputs: Tensor) -> Tensor:
    """The mean; of nothing 0, which hangs on the inputs, so that it has a gradient."""
    return total(each) / len(each) if each else 0 * total(x.sum() for x in inputs)


def weighted(weights: Iterable[Tensor], vectors: Iterable[Tensor]) -> Tensor:
    return (torch.stack(list(weights))[:, None] * torch.stack(list(vectors))).sum(0)


def softplus(logit: Tensor) -> Tensor:
    return torch.log1p(logit.exp())


def cross_entropy(target: Tensor, rivals: Sequence[Tensor], smoothing: float = 0.0) -> Tensor:
    """With the target's share 1 - smoothing + smoothing / all."""
    everything = [target, *rivals]
    nll = [lse(everything) - x for x in (everything if smoothing else [target])]
    return (1 - smoothing) * nll[0] + smoothing * torch.stack(nll).mean() if smoothing else nll[0]


def diagonal_entropy(rows: list[list[Tensor]]) -> Tensor:
    """Mean of both directions' cross entropies of a square table, whose diagonal holds the targets."""
    size = range(len(rows))
    forth = [cross_entropy(rows[a][a], [rows[a][b] for b in size if b != a]) for a in size]
    back = [cross_entropy(rows[a][a], [rows[b][a] for b in size if b != a]) for a in size]
    return total([*forth, *back]) / (2 * len(rows))


def minmax(row: Sequence[Tensor], sigma: float) -> list[Tensor]:
    """SPARC's weights: from 0 to 1, below ``sigma`` 0, of sum 1."""
    low, high = min(row, key=Tensor.item), max(row, key=Tensor.item)
    kept = [(x - low) / (high - low) for x in row]
    kept = [x if x >= sigma else 0 * x for x in kept]
    return [x / total(kept) for x in kept]


def required(feature: T | None) -> T:
    """A feature that every problem has."""
    assert feature is not None
    return feature


class Samples:
    """A batch as Python numbers and lists of vectors, the arguments of a call beside it, and what is known of it.

    Attributes:
        image, text: the features.
        scale, bias, state: as a loss is given them.
        owner, negative_of, kind, role, text_id: of each text; ``image_id``, ``side``: of each image.
        images, texts: all places; ``true``, ``foils``: the texts that are captions, and that are hard negatives.
    """

    def __init__(self, batch: Batch, scale: Tensor, bias: Tensor, state: State | None = None) -> None:
        pairing = batch.pairing
        self.image, self.text = batch.image, batch.text
        self.scale, self.bias, self.state = scale, bias, state
        self.owner: list[int] = pairing.owner_N.tolist()
        self.negative_of: list[int] = pairing.negative_of_N.tolist()
        self.kind: list[int] = pairing.kind_N.tolist()
        self.role = [pairing.roles[role] for role in pairing.role_N.tolist()]
        self.text_id: list[int] = pairing.text_id_N.tolist()
        self.image_id: list[int] = pairing.image_id_B.tolist()
        self.side: list[int] = [0] * len(self.image_id) if pairing.side_B is None else pairing.side_B.tolist()
        self.images, self.texts = range(len(self.image_id)), range(len(self.owner))
        self.true = [n for n in self.texts if self.negative_of[n] < 0]
        self.foils = [n for n in self.texts if self.negative_of[n] >= 0]

    @cached_property
    def patches(self) -> list[list[Tensor]]:
        """The patches of each image."""
        return [list(x) for x in required(self.image.patches_BPD)]

    @cached_property
    def unit_patches(self) -> list[list[Tensor]]:
        """The same, each of length one."""
        return [[unit(v) for v in patches] for patches in self.patches]

    @cached_property
    def words(self) -> list[list[Tensor]]:
        """The tokens of each text, without padding."""
        rows = zip(required(self.text.tokens_NLD), required(self.text.mask_NL).tolist(), strict=True)
        return [[t for t, real in zip(tokens, mask, strict=True) if real] for tokens, mask in rows]

    def cosine(self, image: int, text: int) -> Tensor:
        """Of an image's vector with a text's."""
        return dot(self._units[0][image], self._units[1][text])

    @cached_property
    def _units(self) -> tuple[list[Tensor], list[Tensor]]:
        """The images' and the texts' vectors, of length one."""
        return [unit(v) for v in self.image.pooled_BD], [unit(t) for t in self.text.pooled_ND]

    def log_odds(self, image: int, text: int) -> Tensor:
        """What the network that reads both together says of these two alone."""
        one, other = torch.tensor([image]), torch.tensor([text])
        return required(self.image.match)(self.image.select(one), self.text.select(other))[0]

    def captions_of(self, image: int) -> list[int]:
        return [n for n in self.true if self.owner[n] == image]

    def known(self, image: int, text: int) -> bool:
        """Whether a text is known to be true of an image: its words are those of a true text of a copy of the image."""
        copies = [n for n in self.true if self.image_id[self.owner[n]] == self.image_id[image]]
        return any(self.text_id[n] == self.text_id[text] for n in copies)

    def left_out(self, image: int, text: int, duplicates: str) -> bool:
        """Whether a text is no rival of the image's captions: its own, or if copies count as such, known to be true."""
        own = text in self.true and self.owner[text] == image
        return own or (duplicates != "negative" and self.known(image, text))

    def foils_of(self, caption: int, duplicates: str) -> list[int]:
        """The hard negatives of a caption; with ``"ignore"`` without those known to be true of the image."""
        own = [k for k in self.foils if self.negative_of[k] == caption]
        return [k for k in own if duplicates == "negative" or not self.known(self.owner[k], k)]

    def different_foils(self, caption: int) -> list[int]:
        """The hard negatives of a caption that differ from it in words."""
        return [k for k in self.foils if self.negative_of[k] == caption and self.text_id[k] != self.text_id[caption]]

    def candidates(self, negatives: str) -> list[int]:
        """The texts that images are compared with: all with ``"none"`` but hard negatives."""
        return self.true if negatives == "none" else list(self.texts)


Score = Callable[[int, int], Tensor]  # image, text -> scaled score


def symmetric_softmax(
    x: Samples,
    texts: Sequence[int],
    to_text: Score,
    to_image: Score | None = None,
    *,
    duplicates: str,
    smoothing: float = 0.0,
    own_only: bool = False,
) -> Tensor:
    """Mean over true pairs of the cross entropies of choosing the text among ``texts`` and the image among all images.

    ``to_image`` scores images for a text, if otherwise than ``to_text`` scores texts; ``own_only``: an image meets no foils but its own.
    """
    to_text = cache(to_text)
    to_image = to_text if to_image is None else cache(to_image)
    each = []
    for n in x.true:
        i = x.owner[n]
        row = [m for m in texts if not x.left_out(i, m, duplicates)]
        row = [m for m in row if not (own_only and m in x.foils and x.owner[m] != i)]
        column = [j for j in x.images if not x.left_out(j, n, duplicates)]
        each.append(cross_entropy(to_text(i, n), [to_text(i, m) for m in row], smoothing))
        each.append(cross_entropy(to_image(i, n), [to_image(j, n) for j in column], smoothing))
    return total(each) / (2 * len(x.true))


def sigmoid_cells(x: Samples, texts: Sequence[int], logit: Score, duplicates: str, own_only: bool = False) -> Tensor:
    """The sigmoid loss summed over cells (image, text), by the number of images; arguments as in :func:`symmetric_softmax`."""
    each = []
    for i in x.images:
        for m in texts:
            own, known = m in x.true and x.owner[m] == i, x.known(i, m)
            elsewhere = own_only and m in x.foils and x.owner[m] != i
            if elsewhere or (not own and known and duplicates == "ignore"):
                continue
            positive = own or (known and duplicates == "positive")
            each.append(softplus(-logit(i, m) if positive else logit(i, m)))
    return total(each) / len(x.images)
