"""Is the answer right? The form of the answer, known answers, and an independent reference."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from wholegrain.app.verify.cases import Batch, alike, lean, make_batch
from wholegrain.app.verify.closed_forms import closed_forms
from wholegrain.app.verify.seen import Seen, tensor
from wholegrain.app.verify.subject import BIAS, SCALE, NotApplicable, Subject, evaluate
from wholegrain.losses.contract import LossOutput


def contract(subject: Subject, seen: Seen) -> None:
    """The form of call and answer."""
    batch, loss = make_batch(0).fresh(), subject.loss
    names = inspect.signature(loss.__call__).parameters
    seen.require("group" in names, "its call has no parameter group, so it can only see one process")
    scale, bias = tensor(SCALE), tensor(BIAS)
    output = loss(batch.image, batch.text, batch.pairing, scale, bias, subject.warm_state, group=None)
    seen.require(isinstance(output, LossOutput), f"it answers with {type(output).__name__}, not LossOutput")
    value = output.value
    seen.require(isinstance(value, Tensor) and value.ndim == 0, "value is not a tensor of no dimensions")
    seen.require(value.dtype == torch.float64, f"float64 inputs give a value in {value.dtype}; nothing may round them")
    seen.require(value.requires_grad, "value is cut off from its inputs: no gradient reaches them")
    for name, part in output.parts.items():
        fine = isinstance(part, Tensor) and part.ndim == 0 and not part.requires_grad
        seen.require(fine, f'part "{name}" is not a detached scalar tensor')


def needs(subject: Subject, seen: Seen) -> None:
    """What is not asked for may be absent."""
    full = make_batch(8)
    slim = lean(full, subject.needs)
    bias = BIAS if "bias" in subject.needs else None
    expected = subject.evaluate(full)
    got = subject.evaluate(slim, bias=bias)
    seen.compare("value without the features that it does not ask for", got.value, expected.value)


def known_answers(subject: Subject, seen: Seen) -> None:
    """Problems that can be solved on paper."""
    forms = closed_forms(subject.definition)
    if not forms:
        result = evaluate(subject.loss, alike(4), state=subject.initial_state())
        raise NotApplicable(
            f"none is known for this loss; 4 images and all texts alike give exp(loss) = {result.value.exp():.4g}"
        )
    for form in forms:
        result = evaluate(subject.loss, form.batch, state=subject.initial_state())
        seen.compare(form.said, result.value, tensor(form.expected))


def problems(subject: Subject) -> list[tuple[str, Batch]]:
    """What is compared with the reference."""
    return [
        ("copies, foils, unequal captions", make_batch(0)),
        ("one image", make_batch(4, captions=(2,), duplicates=False)),
        ("no foils", make_batch(2, captions=(2, 1, 2), negatives=0)),
        ("an image without captions", make_batch(6, captions=(1, 0, 3, 1))),
    ]


def reference(subject: Subject, seen: Seen) -> None:
    """Value, gradients and next state against loops."""
    loops = subject.reference
    if loops is None:
        raise NotApplicable('there is none; give the loss a method "reference", or say --like NAME')
    state = subject.initial_state()
    for said, batch in problems(subject):
        for step in (1, 2) if state is not None else (1,):
            carried = state if step == 1 else subject.warm_state
            result = evaluate(subject.loss, batch, state=carried)
            given = batch.fresh()
            scale, bias = tensor(SCALE).requires_grad_(), tensor(BIAS).requires_grad_()
            value, next_state = loops(given, scale, bias, carried)
            seen.compare(f"value ({said})", result.value, value)
            leaves = {**given.leaves(), "scale": scale, "bias": bias}
            if value.requires_grad:
                grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
                for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
                    seen.compare(
                        f"gradient of {name} ({said})", result.grads[name], torch.zeros_like(leaf) if grad is None else grad
                    )
            if next_state is not None and result.state is not None:
                for name, x in next_state.items():  # float32 is enough for what is carried
                    if not torch.allclose(result.state[name].float(), x.float(), rtol=1e-6, atol=1e-6):
                        seen.compare(f"state {name} ({said})", result.state[name], x)
