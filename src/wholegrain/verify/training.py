"""What training relies on: gradients, several processes, carried state, cached embeddings, the same answer twice."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from wholegrain.losses.core.contract import State
from wholegrain.verify.cases import BIAS, SCALE, Batch, drawn_near, make_batch
from wholegrain.verify.differences import Differences, tensor
from wholegrain.verify.processes import join, summed
from wholegrain.verify.subject import LossUnderTest, NotApplicable, evaluate

STEP = 1e-6


def gradients(subject: LossUnderTest, differences: Differences) -> None:
    """Every feature's gradient against differences, along random directions; what has no gradient is moved all at once."""
    for seed in (5, 15):
        batch = make_batch(seed, captions=(3, 2, 1), branches=2, patches=4, tokens=3, width=4)
        differences.case = f"3 images, {len(batch.pairing.owner_N)} texts, scale {SCALE:g}"
        result, draw = subject.evaluate(batch), torch.Generator().manual_seed(seed)
        along = {name: torch.randn(x.shape, generator=draw, dtype=torch.float64) for name, x in batch.leaves().items()}
        idle = {name: x for name, x in along.items() if not result.grads[name].any()}
        if _slope(subject, batch, idle) == 0:
            along = {name: x for name, x in along.items() if name not in idle}
        for name, x in along.items():
            slope = (result.grads[name] * x).sum()
            differences.compare(f"slope along a random change of {name}", slope, _slope(subject, batch, {name: x}))
    if not differences.count:
        raise NotApplicable("nothing moves its value in these problems, a hinge that is not reached, say")


def _slope(subject: LossUnderTest, batch: Batch, along: Mapping[str, Tensor]) -> Tensor:
    at = batch.leaves()
    there, back = (subject.value(batch.with_leaves({name: at[name] + s * x for name, x in along.items()})) for s in (STEP, -STEP))
    return (there - back) / (2 * STEP)


def scale(subject: LossUnderTest, differences: Differences) -> None:
    """The gradients of scale and bias against differences."""
    idle = {"scale", "bias"}
    for seed, of_scale, of_bias in ((5, SCALE, BIAS), (16, 1.3, 0.5), (17, 40.0, -6.0)):
        batch, knobs = make_batch(seed), {"scale": of_scale, "bias": of_bias}
        differences.case = f"scale {of_scale:g}, bias {of_bias:g}"
        result = subject.evaluate(batch, **knobs)
        for name, at in knobs.items():
            there, back = (subject.value(batch, **{**knobs, name: at + s}) for s in (STEP, -STEP))
            differences.compare(f"gradient of {name}", result.grads[name], (there - back) / (2 * STEP))
            if not torch.equal(there, back):
                idle.discard(name)
    if "scale" in idle:
        differences.notes.append("the scale changes nothing, which is right for a loss that means to use none, or a fixed one")


_joined = lru_cache(maxsize=1)(join)  # for the two checks that look at the same steps


def processes(subject: LossUnderTest, differences: Differences) -> None:
    """Values, parts and gradients of 1, 2 and 4 processes."""
    for joined in _joined(subject):
        for name, expected in joined.alone.items():
            if not name.startswith("state"):
                differences.compare(f"{name}, {joined.split}", summed(joined, name), expected)


def state(subject: LossUnderTest, differences: Differences) -> None:
    """What is carried: its form, a round trip over disk, the same in all processes."""
    initial, batch = subject.initial_state(), make_batch(1)
    result = evaluate(subject.loss, batch, state=initial)
    if initial is None and result.state is None:
        raise NotApplicable("it carries nothing")
    if initial is None or result.state is None:
        present, absent = ("a call gives", "initial_state") if initial is None else ("initial_state gives", "a call's answer")
        differences.require(False, f"{present} a state and {absent} has none")
        return
    _same_form(differences, initial, result.state)
    _same_form(differences, initial, subject.evaluate(make_batch(2, captions=(2, 1, 2), negatives=0)).state or {})
    written = io.BytesIO()
    torch.save(dict(result.state), written)
    written.seek(0)
    again = evaluate(subject.new(), make_batch(3), state=torch.load(written, weights_only=True))
    onward = evaluate(subject.loss, make_batch(3), state=result.state)
    differences.compare("value after saving, a new instance and loading", again.value, onward.value)
    _has_effect(subject, differences, initial)
    for joined in _joined(subject):
        for name, expected in joined.alone.items():
            if name.startswith("state"):
                for rank, share in enumerate(joined.shares):
                    differences.compare(f"{name} in process {rank}, {joined.split}", share[name], expected)


def _has_effect(subject: LossUnderTest, differences: Differences, initial: State) -> None:
    """What moves from step to step must change value or gradients; counts, which may change them in time, are left out."""
    later = subject.warm_state or {}
    floating = [name for name, x in initial.items() if x.is_floating_point() and name in later]
    moved = [name for name in floating if not torch.equal(initial[name], later[name].to(initial[name]))]
    batches = [make_batch(3), drawn_near(make_batch(3)), make_batch(28)]
    pairs = [[evaluate(subject.loss, batch, state=s) for s in (initial, later)] for batch in batches if moved]
    same = all(torch.equal(a.value, b.value) and all(map(torch.equal, a.grads.values(), b.grads.values())) for a, b in pairs)
    idle = bool(moved) and same
    differences.likely = "what is carried is never used: a margin, or an average, was dropped from the formula" if idle else ""
    differences.require(
        not idle,
        f"state {', '.join(moved)} moves from step to step and changes nothing: value and gradients are those of the first step",
    )


def _same_form(differences: Differences, initial: Mapping[str, Tensor], later: Mapping[str, Tensor]) -> None:
    differences.require(set(initial) == set(later), f"the state begins with {sorted(initial)} and goes on with {sorted(later)}")
    for name in set(initial) & set(later):
        fine = initial[name].shape == later[name].shape
        differences.require(
            fine, f"state {name} begins with shape {tuple(initial[name].shape)}, goes on with {tuple(later[name].shape)}"
        )
        differences.finite(f"state {name}", later[name])


def replay(subject: LossUnderTest, differences: Differences) -> None:
    """Cached embeddings: the loss once over all, its gradients carried back in three micro-batches."""
    batch, parts = make_batch(21), [(0, 2), (2, 3), (3, 6)]
    towers = {name: torch.eye(x.shape[-1], dtype=torch.float64) + 0.1 for name, x in batch.leaves().items()}
    whole = {name: w.clone().requires_grad_() for name, w in towers.items()}
    knob = tensor(SCALE).requires_grad_()
    _value(subject, _encode(batch, whole), knob).backward()
    with torch.no_grad():
        cached = _encode(batch, towers)
    cached = cached.fresh()
    once = tensor(SCALE).requires_grad_()
    _value(subject, cached, once).backward()
    pieces = {name: w.clone().requires_grad_() for name, w in towers.items()}
    owner = batch.pairing.owner_N
    for first, last in parts:
        mine = ((owner >= first) & (owner < last)).nonzero().squeeze(1)
        rows = {"images": torch.arange(first, last), "texts": mine}
        here = _encode(batch.part(first, last), pieces).leaves()
        grads = {name: x.grad for name, x in cached.leaves().items() if x.grad is not None}
        terms = [(here[name] * g[rows[kind]]).sum() for name, g in grads.items() if (kind := batch.rows_of(name)) in rows]
        if first == 0:  # what is of no image in particular comes once
            terms += [(here[name] * g).sum() for name, g in grads.items() if batch.rows_of(name) not in rows]
        if terms:
            torch.stack(terms).sum().backward()
    for name, w in whole.items():
        got, expected = (torch.zeros_like(x) if x.grad is None else x.grad for x in (pieces[name], w))
        differences.compare(f"gradient of the weights behind {name}", got, expected)
    got, expected = (tensor(0.0) if x.grad is None else x.grad for x in (once, knob))
    differences.compare("gradient of scale", got, expected)
    alone = sum(subject.value(batch.part(*bounds)).item() for bounds in parts) / len(parts)
    together = subject.value(batch).item()
    if abs(alone - together) > 1e-6:
        differences.notes.append(
            f"micro-batches on their own give {alone:.4g} on average, together {together:.4g}: cache the embeddings"
        )


def _encode(batch: Batch, towers: Mapping[str, Tensor]) -> Batch:
    return batch.with_leaves({name: x @ towers[name] for name, x in batch.leaves().items()})


def _value(subject: LossUnderTest, batch: Batch, knob: Tensor) -> Tensor:
    return subject.loss(batch.image, batch.text, batch.pairing, knob, tensor(BIAS), subject.warm_state).value


def repeatable(subject: LossUnderTest, differences: Differences) -> None:
    """Twice the same, from a used and a new instance."""
    batch = make_batch(22)
    first, second = subject.evaluate(batch), subject.evaluate(batch)
    new = evaluate(subject.new(), batch, state=subject.warm_state)
    for said, other in (("the second call", second), ("a new instance", new)):
        differences.compare(f"value of {said}", other.value, first.value)
        for name, grad in first.grads.items():
            differences.compare(f"gradient of {name} in {said}", other.grads[name], grad)


def inputs_kept(subject: LossUnderTest, differences: Differences) -> None:
    """The call changes none of its arguments."""
    batch = make_batch(23)
    given = batch.fresh().map(lambda x: x * 1)  # no leaves: autograd refuses to change leaves in place, and would hide it
    knob, shift, kept = tensor(SCALE), tensor(BIAS), batch.pairing
    before = {name: x.clone() for name, x in vars(kept).items() if isinstance(x, Tensor)}
    carried = None if subject.warm_state is None else {name: x.clone() for name, x in subject.warm_state.items()}
    subject.loss(given.image, given.text, kept, knob, shift, carried)
    changes = {name: (given.parts()[name], x) for name, x in batch.parts().items()}
    changes |= {name: (getattr(kept, name), x) for name, x in before.items()}
    changes |= {f"state {name}": (x, (subject.warm_state or {})[name]) for name, x in (carried or {}).items()}
    changes |= {"scale": (knob, tensor(SCALE)), "bias": (shift, tensor(BIAS))}
    for name, (after, expected) in changes.items():
        differences.compare(f"{name} after the call", after, expected)
