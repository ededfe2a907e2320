"""What every loss is: a frozen dataclass of settings that is called with features and returns this process's share.

A loss named ``own_negatives`` in a recipe is the class ``OwnNegativesLoss`` in ``losses/own_negatives.py``; one from outside is
``module:attribute``. In outline (``losses/cmr.py`` is one like this in full)::

    @dataclass(frozen=True)
    class RankLoss:
        upper: float = 10.0                                             # settings: plain values with defaults
        needs: ClassVar[frozenset[str]] = frozenset({"negatives"})      # what must be there, from NEEDS; REMEDIES says how to get it
        ranges: ClassVar[Ranges] = {"upper": (0, 1e6)}                  # of numbers among the settings; recipes are held to them

        def initial_state(self, kinds): return {"margin_K": torch.zeros(len(kinds))}    # only if it carries state
        def __call__(self, image, text, pairing, scale, bias=None, state=None, *, group=None) -> LossOutput: ...

The contract:

* ``value`` is this process's **share**: the shares of all processes in ``group`` sum to the loss of the global batch, with global
  denominators. Training multiplies by the number of processes to undo DDP's mean, so that one process and W processes give the
  same loss and the same gradients, for features, scale, bias and carried state alike. There is no flag for this.
* ``group=None`` means the default group if ``torch.distributed`` is initialised, else this process alone (``losses/core/gather.py``).
  Every process makes the same collective calls in the same order, whatever its own texts: no branch on local counts around one.
* Features arrive un-normalised; the loss applies its own similarity. Computation is in float32 at least, also under autocast
  (``@full_precision``); float64 stays float64. Scale and bias may be plain numbers (``@takes_numbers``, or that).
* A missing caption or negative is masked, never faked; nothing is NaN when a kind is absent, B = 1, or inputs are constant.
* Duplicates (the same text under two images, or the same image twice) are neither positive nor negative unless a loss
  says otherwise. They are known by ``text_id_N`` and ``image_id_B``, so these must be true hashes, the same in every process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import ClassVar, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.typed_torch import vector_norm

REMEDIES: Mapping[str, str] = {
    "negatives": "make some (wholegrain enrich DATA --negatives) and set data.negatives.count to 1 or more, such as 4",
    "branches": 'set model.head to "branches" and model.branches to 2 or more',
    "bias": "use a model with a bias, which sigmoid recipes make, such as recipe siglip",
    "patches": "use an image tower that gives patch features, such as --model ViT-B-32:openai",
    "tokens": "use a text tower that gives token features, such as --model ViT-B-32:openai",
    "slots": 'set model.head to "flair" or "llip"',
    "prototypes": 'set model.head to "mgca"',
    "teacher": 'set teacher.kind to "ema" or "frozen"',
    "cross": 'set model.head to "cosmos"',
    "views": "ask for further crops, such as data.views = [{ count = 1, crop_scale = [0.4, 1.0] }]",
    "match": 'set model.head to "fusion"',
    "phrases": "train by wholegrain train, which finds the noun phrases of captions",
    "grain": 'set model.head to "grain"',
    "twins": "take data with twins among the training pictures (wholegrain scenes OUT --train-twins 1000) and set data.twin_share, such as 1.0",
}
"""What a loss may need -> what to do where data or model lack it, in words that end a sentence."""
NEEDS = frozenset(REMEDIES)
State = Mapping[str, Tensor]
Ranges = Mapping[str, tuple[float, float]]
"""Setting -> its least and its greatest value; beyond them lies what can only be a slip, or harm."""
TINY = 1e-12
MAX_SCALE = 100.0
"""The cap of learned scales that have one, as in CLIP."""


@dataclass(frozen=True)
class LossOutput:
    """A loss's share, its named parts for the log (detached shares, too), and the state to carry to the next step.

    Attributes:
        value: scalar, this process's share of the global loss.
        parts: name -> detached scalar share; parts are logged as ``loss/<term>/<name>``.
        state: what the next step's call gets as ``state``; identical in every process; ``None`` if nothing is carried.
    """

    value: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    state: State | None = None


class Loss(Protocol):
    """The call that every loss answers; see the module docstring."""

    needs: ClassVar[frozenset[str]]

    def __call__(
        self,
        image: ImageFeatures,
        text: TextFeatures,
        pairing: Pairing,
        scale: Tensor | float,
        bias: Tensor | float | None = None,
        state: State | None = None,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> LossOutput: ...


def at_least_float32(x: Tensor) -> Tensor:
    """bf16 and fp16 become float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit(x: Tensor) -> Tensor:
    """Unit vectors along the last axis, in float32 at least; a vector shorter than 1e-12 becomes zero and gets no gradient.

    Example:
        >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    x = at_least_float32(x)
    norm = vector_norm(x, dim=-1, keepdim=True)
    return x * torch.where(norm > TINY, norm.clamp_min(TINY).reciprocal(), 0.0)


def takes_numbers(call: Callable[..., LossOutput]) -> Callable[..., LossOutput]:
    """Decorates a loss's ``__call__``: a plain number given as scale or bias becomes a tensor, beside the images and as exact.

    Example:
        >>> from wholegrain.losses.clip import ClipLoss
        >>> same, pairing = torch.ones(4, 8), Pairing.one_to_one(4)
        >>> round(ClipLoss()(ImageFeatures(same), TextFeatures(same), pairing, 14.3).value.exp().item(), 4)
        4.0
    """

    @wraps(call)
    def with_tensors(self: object, image: ImageFeatures, *args: object, **kwargs: object) -> LossOutput:
        like = at_least_float32(image.pooled_BD[:0])

        def tensor(x: object) -> object:  # of what a loss is given, scale and bias alone can be numbers
            return like.new_tensor(float(x)) if isinstance(x, (int, float)) else x

        return call(self, image, *map(tensor, args), **{name: tensor(x) for name, x in kwargs.items()})

    return with_tensors


def capped_scale(log_scale: Tensor) -> Tensor:
    """``exp(log_scale)``, at most 100. Above it the gradient is that at 100, so that the scale can come down.

    Example:
        >>> logarithm = torch.tensor([0.0, 4.7], requires_grad=True)
        >>> capped_scale(logarithm).tolist()
        [1.0, 100.0]
    """
    scale = log_scale.clamp(max=math.log(MAX_SCALE) + 1).exp()  # no infinity, whose gradient would be NaN
    return torch.where(scale > MAX_SCALE, MAX_SCALE * (1 + (log_scale - log_scale.detach())), scale)


def full_precision(call: Callable[..., LossOutput]) -> Callable[..., LossOutput]:
    """:func:`takes_numbers`, with autocast off inside, so that products of float32 vectors stay float32."""
    exact = takes_numbers(call)

    @wraps(call)
    def without_autocast(self: object, image: ImageFeatures, *args: object, **kwargs: object) -> LossOutput:
        with torch.autocast(image.pooled_BD.device.type, enabled=False):
            return exact(self, image, *args, **kwargs)

    return without_autocast
