"""Is the answer right? The form of the answer, known answers, and an independent reference."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wholegrain.losses.core.contract import LossOutput, State
from wholegrain.verify.cases import BIAS, SCALE, Batch, alike, drawn_near, lean, make_batch, permuted
from wholegrain.verify.definitions import definition_of
from wholegrain.verify.differences import Differences, tensor
from wholegrain.verify.subject import LossUnderTest, NotApplicable, evaluate

EXACT = 1e-8  # the largest difference between a loss and its loops


def contract(subject: LossUnderTest, differences: Differences) -> None:
    """The form of call and answer."""
    batch, loss = make_batch(0).fresh(), subject.loss
    names = inspect.signature(loss.__call__).parameters
    differences.require("group" in names, "its call has no parameter group, so it can only see one process")
    scale, bias = tensor(SCALE), tensor(BIAS)
    output = loss(batch.image, batch.text, batch.pairing, scale, bias, subject.warm_state, group=None)
    differences.require(isinstance(output, LossOutput), f"it answers with {type(output).__name__}, not LossOutput")
    value = output.value
    differences.require(isinstance(value, Tensor) and value.ndim == 0, "value is not a tensor of no dimensions")
    differences.require(value.dtype == torch.float64, f"float64 inputs give a value in {value.dtype}; nothing may round them")
    differences.require(value.requires_grad, "value is cut off from its inputs: no gradient reaches them")
    for name, part in output.parts.items():
        fine = isinstance(part, Tensor) and part.ndim == 0 and not part.requires_grad
        differences.require(fine, f'part "{name}" is not a detached scalar tensor')


def needs(subject: LossUnderTest, differences: Differences) -> None:
    """What is not asked for may be absent."""
    full = make_batch(8)
    slim = lean(full, subject.needs)
    bias = BIAS if "bias" in subject.needs else None
    expected = subject.evaluate(full)
    got = subject.evaluate(slim, bias=bias)
    differences.compare("value without the features that it does not ask for", got.value, expected.value)


def known_answers(subject: LossUnderTest, differences: Differences) -> None:
    """Problems that can be solved on paper."""
    known = definition_of(subject.definition)
    if known is None:
        result = evaluate(subject.loss, alike(4), state=subject.initial_state())
        raise NotApplicable(
            f"none is known for this loss; 4 images and all texts alike give exp(loss) = {result.value.exp():.4g}"
        )
    for form in known.closed_forms(subject.definition):
        state = subject.initial_state()
        if form.margin and state is not None:
            state = {name: torch.full_like(x, form.margin) for name, x in state.items()}
        result = evaluate(subject.loss, form.batch, scale=form.scale, state=state)
        differences.compare(form.description, result.value, tensor(form.expected))


@dataclass(frozen=True)
class Problem:
    """What is compared with the reference.

    Attributes:
        description: the problem in words.
        batch, scale, bias: the problem.
        step: whether it has the state that the problem before it left.
    """

    description: str
    batch: Batch
    scale: float = SCALE
    bias: float = BIAS
    step: bool = False

    @property
    def traits(self) -> set[str]:
        """What it has that a formula may get wrong; see ``_CAUSES``."""
        pairing = self.batch.pairing
        ids, images = pairing.text_id_N, pairing.image_id_B
        captions = torch.bincount(pairing.owner_N[pairing.true_N], minlength=len(images))
        found = {
            "carried": self.step,
            "scale": (self.scale, self.bias) != (SCALE, BIAS),
            "copies": len(ids.unique()) < len(ids) or len(images.unique()) < len(images),
            "foils": not bool(pairing.true_N.all()),
            "small": len(images) == 1 or not bool(captions.all()),
            "order": bool((pairing.owner_N.diff() < 0).any()),
        }
        return {name for name, there in found.items() if there}


_CAUSES = {
    "carried": "right as long as nothing is carried: what the state holds is not used, or used wrongly",
    "scale": f"right at scale {SCALE:g} and bias {BIAS:g}, wrong at others: a number stands for one of them, or scores are cut off",
    "copies": "right as long as nothing is a copy: which ids are equal, and whether copies are left out",
    "foils": "right without hard negatives, wrong with them: which of them are whose candidates",
    "order": "right where texts stand image by image, wrong elsewhere: texts are taken by their place, not by owner_N",
    "small": "right in full batches, wrong with one image or with an image without captions: a denominator, or empty sums",
}


def problems() -> list[Problem]:
    """Each on its own, in the first step."""
    usual = make_batch(0)
    return [
        Problem("copies, foils, unequal captions", usual),
        Problem("no foils", make_batch(2, captions=(2, 1, 2), negatives=0)),
        Problem("no copies", make_batch(3, captions=(2, 1, 2), duplicates=False)),
        Problem("one image", make_batch(4, captions=(2,), duplicates=False)),
        Problem("an image without captions", make_batch(6, captions=(1, 0, 3, 1))),
        Problem("images and texts in no order", _shuffled(make_batch(5))),
        Problem("scale 1.2, bias 0.5", usual, 1.2, 0.5),
        Problem("scale 97, bias -9", usual, 97.0, -9.0),
        Problem("scale 60, captions near their images", drawn_near(make_batch(1)), 60.0, -9.0),
    ]


def _shuffled(batch: Batch) -> Batch:
    draw = torch.Generator().manual_seed(5)
    return permuted(batch, *(torch.randperm(len(x), generator=draw) for x in (batch.pairing.image_id_B, batch.pairing.owner_N)))


def steps() -> list[Problem]:
    """What is carried must rise with the batch, be bounded at both ends, last where a kind is absent, and be used."""
    near, far = make_batch(30), make_batch(31, captions=(2, 1, 1, 2, 3, 1))
    one_kind = replace(near.pairing, kind_N=near.pairing.kind_N.clamp_max(0))
    return [
        Problem("step 1, captions near their images", drawn_near(near), step=True),
        Problem("step 2, so near at scale 70 that a bound must bind", drawn_near(far, strength=10.0), 70.0, step=True),
        Problem("step 3, with what step 2 left", drawn_near(near), step=True),
        Problem("step 4, foils of one kind alone", replace(drawn_near(near), pairing=one_kind), 9.0, step=True),
        Problem("step 5, captions farther off than foils", drawn_near(far, -1.0), 20.0, step=True),
        Problem("step 6, with what step 5 left", drawn_near(near), step=True),
    ]


def reference(subject: LossUnderTest, differences: Differences) -> None:
    """Value, gradients and next state against loops."""
    if subject.reference is None:
        like = f"{subject.namesake}, the packaged loss of this name" if subject.namesake else "NAME"
        raise NotApplicable(f'there is none; give the loss a method "reference", or say --like {like}')
    initial = subject.initial_state()
    carried, wrong, everything = initial, [], problems() + (steps() if initial is not None else [])
    for problem in everything:
        found, following = _beside_loops(subject, differences, problem, carried if problem.step else initial)
        carried = following if problem.step else carried
        wrong += [(problem.traits, kind) for kind in found]
    differences.likely = _cause(wrong, [problem.traits for problem in everything])


def _beside_loops(subject: LossUnderTest, differences: Differences, problem: Problem, carried: State | None) -> tuple[set[str], State | None]:
    """What is wrong, of ``value``, ``gradient`` and ``state``, and the state that should come next."""
    assert subject.reference is not None
    differences.case = problem.description
    result = evaluate(subject.loss, problem.batch, scale=problem.scale, bias=problem.bias, state=carried)
    given = problem.batch.fresh()
    scale, bias = (tensor(x).requires_grad_() for x in (problem.scale, problem.bias))
    value, next_state = subject.reference(given, scale, bias, carried)
    wrong = {"value"} if differences.compare("value", result.value, value) > EXACT else set()
    leaves = {**given.leaves(), "scale": scale, "bias": bias}
    if value.requires_grad:
        grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
            expected = torch.zeros_like(leaf) if grad is None else grad
            if differences.compare(f"gradient of {name}", result.grads[name], expected) > EXACT:
                wrong.add("gradient")
    for name, x in (next_state or {}).items():
        got = (result.state or {}).get(name)
        if got is None or not torch.allclose(got.float(), x.float(), rtol=1e-6, atol=1e-6):  # float32 is enough to carry
            wrong.add("state")
            differences.require(got is not None, f"state {name} is not in the answer")
            differences.compare(f"next state {name}", x * 0 if got is None else got, x)
    return wrong, next_state or result.state


def _cause(wrong: list[tuple[set[str], str]], everything: list[set[str]]) -> str:
    """Where a failure comes from, by what of which problems is wrong; empty if that says nothing."""
    kinds = {kind for _, kind in wrong}
    if kinds == {"gradient"}:
        return "the value is right everywhere and a gradient is not: a detach() or no_grad() too many, or one too few"
    if kinds == {"state"}:
        return "value and gradients are right and the next state is not: how what is carried follows the batch, or its bounds"
    telling_kind = "value" if "value" in kinds else "gradient"
    alone = [name for name in _CAUSES if all(name in traits for traits, kind in wrong if kind == telling_kind)]
    telling = [name for name in alone if any(name not in traits for traits in everything)]
    return _CAUSES[telling[0]] if wrong and telling else ""
