"""What is verified, and one call of it: value, gradients, parts and state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.losses.core.contract import Loss, State
from wholegrain.objectives.resolve import class_name, packaged, resolve_loss
from wholegrain.objectives.schema import Term
from wholegrain.suggest import closest
from wholegrain.verify.cases import BIAS, KINDS, SCALE, Batch, drawn_near, make_batch
from wholegrain.verify.definitions import defined, definition_of, reference_value
from wholegrain.verify.settings import parse_settings

Reference = Callable[[Batch, Tensor, Tensor, State | None], tuple[Tensor, State | None]]


class NotApplicable(Exception):  # noqa: N818  it is no error
    """A check does not concern this loss; the message says why."""


@dataclass(frozen=True)
class Result:
    """One evaluation.

    Attributes:
        value: the share, detached.
        grads: of every feature, and of ``scale`` and ``bias``; zeros where there is none.
        parts: as in ``LossOutput``, detached.
        state: as in ``LossOutput``, detached.
    """

    value: Tensor
    grads: dict[str, Tensor]
    parts: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] | None = None


def evaluate(
    loss: Loss,
    batch: Batch,
    *,
    scale: float = SCALE,
    bias: float | None = BIAS,
    state: State | None = None,
    group: dist.ProcessGroup | None = None,
) -> Result:
    """The loss of a batch with every gradient."""
    batch = batch.fresh()
    knobs = _knobs(batch, scale, bias)
    output = loss(batch.image, batch.text, batch.pairing, knobs["scale"], knobs.get("bias"), state, group=group)
    if output.value.requires_grad:
        output.value.backward()
    leaves = {**batch.leaves(), **knobs}
    grads = {name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in leaves.items()}
    carried = None if output.state is None else {name: x.detach() for name, x in output.state.items()}
    return Result(output.value.detach(), grads, {name: part.detach() for name, part in output.parts.items()}, carried)


def _knobs(batch: Batch, scale: float, bias: float | None) -> dict[str, Tensor]:
    given = {"scale": scale} if bias is None else {"scale": scale, "bias": bias}
    return {name: torch.tensor(x, dtype=batch.knob_dtype, requires_grad=True) for name, x in given.items()}


@dataclass(frozen=True, eq=False)
class LossUnderTest:
    """A loss under test.

    Attributes:
        term: which loss with which settings.
        like: a packaged loss whose definition it claims to compute, or ``None``.
        breaks: check -> why the loss is known not to keep it; it must not.
        may_break: check -> why the loss that it is likened to is known not to keep it.
    """

    term: Term
    like: Term | None = None
    breaks: Mapping[str, str] = field(default_factory=dict)
    may_break: Mapping[str, str] = field(default_factory=dict)

    def new(self) -> Loss:
        """A new instance of the loss."""
        return resolve_loss(self.term)

    @cached_property
    def loss(self) -> Loss:
        return self.new()

    @cached_property
    def definition(self) -> Loss | None:
        """The packaged loss by whose formula this one is judged, or ``None``."""
        if self.like is not None:
            return resolve_loss(self.like)
        return None if definition_of(self.loss) is None else self.loss

    @property
    def namesake(self) -> str:
        """The packaged loss whose class has the same name, or that it derives from; else empty."""
        names = [kind.__name__ for kind in type(self.loss).__mro__]
        return next((name for name in packaged() if class_name(name) in names), "")

    @property
    def duplicates(self) -> str:
        """What copies are to the loss: as it says, or as the loss says that it is likened to; ``ignore`` if neither does."""
        return getattr(self.loss, "duplicates", getattr(self.definition, "duplicates", "ignore"))

    @cached_property
    def needs(self) -> frozenset[str]:
        return frozenset(self.loss.needs)

    def initial_state(self) -> State | None:
        """The state of the first step."""
        initial = getattr(self.loss, "initial_state", None)
        return None if initial is None else initial(KINDS)

    @cached_property
    def warm_state(self) -> State | None:
        """The state after one step, so that what is carried takes part in every check."""
        initial = self.initial_state()
        return initial if initial is None else evaluate(self.loss, drawn_near(make_batch(99)), state=initial).state

    def evaluate(self, batch: Batch, *, scale: float = SCALE, bias: float | None = BIAS) -> Result:
        """:func:`evaluate` with carried state."""
        return evaluate(self.loss, batch, scale=scale, bias=bias, state=self.warm_state)

    def value(self, batch: Batch, *, scale: float = SCALE, bias: float = BIAS) -> Tensor:
        """The value alone of :meth:`evaluate`, of inputs that ask for gradients as in training."""
        batch = batch.fresh()
        knobs = _knobs(batch, scale, bias)
        return self.loss(batch.image, batch.text, batch.pairing, knobs["scale"], knobs["bias"], self.warm_state).value.detach()

    @cached_property
    def reference(self) -> Reference | None:
        """``reference(batch, scale, bias, state)``, independent of the loss: the package's loops, or the loss's own method."""
        own: Callable[..., Tensor | tuple[Tensor, State | None]] | None = getattr(self.loss, "reference", None)
        if definition_of(self.definition) is not None:
            return partial(reference_value, self.definition)
        if not callable(own):
            return None

        def of_the_loss(batch: Batch, scale: Tensor, bias: Tensor, state: State | None) -> tuple[Tensor, State | None]:
            found = own(batch.image, batch.text, batch.pairing, scale, bias, state)
            return found if isinstance(found, tuple) else (found, None)

        return of_the_loss


def make_subject(spec: str, settings: Mapping[str, object] | None = None, like: str | None = None) -> LossUnderTest:
    """The subject that ``LOSS`` and its settings name.

    Raises:
        UserError: there is no such loss, it cannot be built, or the loss it is likened to is unknown or has no reference.
    """
    term = Term(spec, settings=dict(settings or {}), name=spec.rpartition("/")[2])
    loss = resolve_loss(term)
    other = _likened(loss) if like is None else Term(like.partition(" ")[0], settings=_parsed(like), name=like)
    model = None if other is None else resolve_loss(other)
    known = definition_of(model)
    if other is not None and known is None:
        raise UserError(f'There is no reference of "{other.name}"; {closest(other.name, defined())}')
    breaks = _breaks(loss)
    inherited = {} if known is None else {check: why for check, why in known.known_breaks(model).items() if check not in breaks}
    return LossUnderTest(term, other, breaks, inherited)


def _parsed(like: str) -> dict[str, object]:
    return parse_settings(like.split()[1:])


def _likened(loss: Loss) -> Term | None:
    like = getattr(loss, "like", None)
    return Term(like.partition(" ")[0], settings=_parsed(like), name=like) if isinstance(like, str) else None


def _breaks(loss: Loss) -> dict[str, str]:
    known = definition_of(loss)
    return (known.known_breaks(loss) if known else {}) | dict(getattr(loss, "breaks", {}))
