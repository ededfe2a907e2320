"""Exact accumulation: the gradient of one large batch in the memory of small ones.

A contrastive loss compares every image with every text, so the mean of the losses of micro-batches is another loss. Here a step is

1. every micro-batch is encoded without a graph; what comes out is joined, and torch's random state before each is kept;
2. the objective is evaluated once, on the joined features as leaves; backward stops at these leaves;
3. every micro-batch is encoded again, from its random state (so dropout falls the same), now with a graph, and is fed the gradients
   of its own leaves; under DDP only the last one speaks to the other processes.

That is the chain rule, cut at the features (GradCache: Gao et al., *Scaling deep contrastive learning batch size under memory limited
setup*, RepL4NLP 2021, arXiv 2101.06983, section 3). Loss, gradients, temperature, bias, what a head learns for pairs and the state that a
loss carries are those of the whole batch, to rounding. The price is a second forward pass of the student (not of a teacher). open_clip's
``--accum-freq`` evaluates the loss once a micro-batch, which makes the gradient of the temperature too large by their number, and
does not replay dropout.

Distinct texts are encoded once in each pass, whichever images they belong to: sorted by length and cut into as many parts as the
images, so that each part is padded to its own longest only.

Memory: one micro-batch's graph, and the features of the whole batch with their gradients. What the tower of a micro-batch takes from its
other members (BatchNorm's statistics) cannot be the same, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wholegrain.data.batch import Batch, View
from wholegrain.errors import UserError
from wholegrain.features import FeatureRows, Features, ImageFeatures, TextFeatures, join
from wholegrain.losses.core.contract import LossOutput
from wholegrain.objectives.objective import Objective

Cast = Callable[[], torch.autocast]
Encoded = tuple[ImageFeatures, TextFeatures, Tensor, Tensor | None]


@dataclass(frozen=True)
class Part:
    """A micro-batch.

    Attributes:
        batch: its images, and its distinct texts in place of the texts of its images.
        images: which images of the whole batch.
        rows: which of the sorted distinct texts; ``batch`` has one text more than that if there are none.
    """

    batch: Batch
    images: slice
    rows: slice


def backward_in_parts(
    encoder: nn.Module,
    objective: Objective,
    batch: Batch,
    size: int,
    *,
    cast: Cast,
    root: Callable[[Tensor], Tensor],
    group: dist.ProcessGroup | None = None,
) -> tuple[LossOutput, Tensor]:
    """Adds the whole batch's gradients to the parameters; gives the objective's output and the temperature's inverse.

    Args:
        encoder: ``training.encoder.Encoder``, or DDP of it.
        objective, batch, group: as for a step.
        size: images of a micro-batch.
        cast: makes a fresh autocast context.
        root: from this process's share to what is differentiated (times the number of processes, and the scaler's factor).
    """
    parts, place_U = split(batch, size)
    inner = encoder.module if isinstance(encoder, nn.parallel.DistributedDataParallel) else encoder
    seen, states = _first_pass(inner, parts, objective.needs, cast)
    image, text = _leaves(join([encoded[0] for encoded in seen])), _leaves(join([encoded[1] for encoded in seen]))
    scale, bias = (None if value is None else value.detach().requires_grad_() for value in seen[-1][2:])
    assert scale is not None
    del seen
    with cast():
        output = objective(image, batch.laid_out(text, place_U), batch.pairing, scale, bias, group=group)
    root(output.value).backward()
    devices = [batch.row_N.device] if batch.row_N.is_cuda else []
    with torch.random.fork_rng(devices):
        for number, (part, state) in enumerate(zip(parts, states, strict=True)):
            last = number + 1 == len(parts)
            _set_random_state(state, batch.row_N.device)
            with nullcontext() if last or inner is encoder else encoder.no_sync():  # pyright: ignore[reportCallIssue]
                with cast():
                    again = encoder(part.batch, objective.needs - {"teacher"})
                _second_backward(again, (image, text, scale, bias), part, last)
    return output, scale


def _first_pass(
    encoder: nn.Module, parts: Sequence[Part], needs: frozenset[str], cast: Cast
) -> tuple[list[Encoded], list[tuple[Tensor, Tensor | None]]]:
    """The first pass: features without graph, and the random state before each micro-batch."""
    seen, states = [], []
    with torch.no_grad():
        for part in parts:
            states.append(_random_state(part.batch.row_N.device))
            with cast():
                image, text, scale, bias = encoder(part.batch, needs)
            seen.append((image, text.select(slice(_count(part.rows))), scale, bias))
    return seen, states


def _second_backward(again: Encoded, leaves: Encoded, part: Part, last: bool) -> None:
    """The second pass's backward: every output is given the gradient of its leaf. What belongs to no image comes with the last part."""
    image, text = again[0].select(slice(_count(part.images))), again[1].select(slice(_count(part.rows)))
    given: list[tuple[Tensor, Tensor]] = []
    for found, asked, rows in (
        (_tensors(image), _tensors(leaves[0]), part.images),
        (_tensors(text), _tensors(leaves[1]), part.rows),
    ):
        for name, leaf in asked.items():
            if leaf.grad is not None:
                gradient = leaf.grad[rows]
                given.append((found[name], gradient[:, : found[name].shape[1]] if gradient.ndim > 1 else gradient))
    if last:
        pairs = [(image.learned[name], leaf) for name, leaf in leaves[0].learned.items()]
        pairs += [(out, leaf) for out, leaf in zip(again[2:], leaves[2:], strict=True) if out is not None and leaf is not None]
        given += [(out, leaf.grad) for out, leaf in pairs if leaf.grad is not None]
    given = [(out, gradient) for out, gradient in given if out.requires_grad]
    if given:
        torch.autograd.backward([out for out, _ in given], [gradient for _, gradient in given])


# ---- micro-batches ----------------------------------------------------------------------------------------------------------


def split(batch: Batch, size: int) -> tuple[list[Part], Tensor]:
    """Micro-batches of ``size`` images (the last may be smaller), and for each distinct text its place among the sorted ones.

    A part without a text of its own, where there are fewer distinct texts than parts, reads the first again and drops it; the last
    part always has one, for under DDP the last backward must reach every parameter.
    """
    starts = range(0, len(batch.keys), size)
    order_U = batch.length_U.argsort(stable=True)
    ends = [(number + 1) * len(order_U) // len(starts) for number in range(len(starts))]
    parts = []
    for start, first, end in zip(starts, [0, *ends[:-1]], ends, strict=True):
        images = slice(start, min(start + size, len(batch.keys)))
        rows_U = order_U[first:end] if end > first else order_U[:1]
        parts.append(Part(_some(batch, images, rows_U), images, slice(first, end)))
    return parts, order_U.argsort()


def _count(rows: slice) -> int:
    return rows.stop - rows.start


def _some(batch: Batch, images: slice, rows_U: Tensor) -> Batch:
    length_U = batch.length_U[rows_U]
    longest = int(length_U.max()) if len(rows_U) else 0
    return replace(
        batch,
        views=tuple(View(view.pixels_BCHW[images], view.crops_B4[images]) for view in batch.views),
        tokens_UL=batch.tokens_UL[rows_U, :longest],
        length_U=length_U,
        row_N=torch.arange(len(rows_U), device=rows_U.device),
        keys=batch.keys[images],
        texts=tuple(batch.texts[row] for row in rows_U.tolist()),
        phrases=None,
    )


# ---- features as trees of tensors -------------------------------------------------------------------------------------------


def _leaves(features: Features) -> Features:
    """The student's features and what it learned for pairs, as leaves; a teacher's stay as they are."""
    for leaf in _tensors(features).values():
        leaf.requires_grad_()
    if isinstance(features, ImageFeatures):
        fresh = {name: value.detach().requires_grad_() for name, value in features.learned.items()}
        return replace(features, learned=fresh, views=tuple(replace(view, learned=fresh) for view in features.views))
    return features


def _tensors(features: FeatureRows) -> dict[str, Tensor]:
    """What a gradient may reach, a row for each image or text, by name; of views, too."""
    found = {name: value for name, value in features.tensors().items() if value.is_floating_point()}
    for number, view in enumerate(getattr(features, "views", ())):
        found |= {f"{number}/{name}": value for name, value in _tensors(view).items()}
    return found


# ---- randomness, and what cannot be split -----------------------------------------------------------------------------------


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def refuse_batchnorm(model: nn.Module, key: str) -> None:
    """Raises :class:`UserError` if a part that is trained takes statistics of its batch; call with the model in training mode."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise UserError(
                f"{key} cannot be exact with {name}, which normalises by its own batch; leave it out, freeze that tower "
                f"or fix its batch normalisation."
            )
