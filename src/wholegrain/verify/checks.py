"""The list of checks: what each means, what its failure most likely comes from, and how exact the answer must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wholegrain.verify import answers, invariances, numbers, training
from wholegrain.verify.differences import Differences
from wholegrain.verify.subject import LossUnderTest


@dataclass(frozen=True)
class Check:
    """One thing that must hold of a loss.

    Attributes:
        name: by which ``breaks`` and the tables know it.
        means: what holds if it passes.
        likely: where a failure most likely comes from.
        tolerance: the largest difference that passes (see ``Differences.worst``).
        run: compares; raises ``NotApplicable`` where the check does not concern the loss.
        judged: ``False`` for what is told, not judged.
    """

    name: str
    means: str
    likely: str
    tolerance: float
    run: Callable[[LossUnderTest, Differences], None]
    judged: bool = True


CHECKS = (
    Check(
        "contract",
        "call and answer have the form that training expects",
        "a plain number or tuple as the answer, a .float() or .item() on the way, parts that are not detached",
        0.0,
        answers.contract,
    ),
    Check(
        "needs",
        "features that it does not ask for may be absent",
        'it reads patches, tokens, branches or bias and does not name them in "needs"',
        1e-12,
        answers.needs,
    ),
    Check(
        "known_answers",
        "problems that can be solved on paper have the answer of the paper",
        "a wrong set of candidates, a wrong mean, a temperature applied twice or not at all",
        1e-9,
        answers.known_answers,
    ),
    Check(
        "reference",
        "value, gradients and next state are those of loops over single samples in float64, at many scales and over steps",
        "the formula: a wrong target, wrong candidates, a wrong denominator",
        answers.EXACT,
        answers.reference,
    ),
    Check(
        "gradients",
        "the gradient of every feature is the slope of the value",
        "a detach() or no_grad() on the way, or a backward of its own that is wrong",
        1e-6,
        training.gradients,
    ),
    Check(
        "scale",
        "the gradients of scale and bias are the slopes of the value",
        "scale or bias detached, or their gradient counted once for every chunk of a batch",
        1e-6,
        training.scale,
    ),
    Check(
        "image_order",
        "the order of the images does not matter",
        "an image is paired by its place, not by owner_N",
        1e-10,
        invariances.image_order,
    ),
    Check(
        "text_order",
        "the order of the texts does not matter",
        "texts are reshaped or paired by their place (the first one, every M-th one), not by owner_N and negative_of_N",
        1e-10,
        invariances.text_order,
    ),
    Check(
        "padding",
        "padded tokens change nothing, however many and whatever they hold",
        "a mean, softmax or maximum over tokens without mask_NL; a mask that is added instead of -inf; 0 * nan",
        1e-10,
        invariances.padding,
    ),
    Check(
        "missing",
        "nothing is NaN where captions, foils, kinds or tokens are absent",
        "a mean over nothing: divide by the number that is there, at least 1",
        0.0,
        invariances.missing,
    ),
    Check(
        "duplicates",
        "pairs known to be true by a copied text or image are treated as documented (by default: ignored)",
        'masks made from the diagonal alone; use text_id_N and image_id_B, or say duplicates = "negative"',
        1e-9,
        invariances.duplicates,
    ),
    Check(
        "ids",
        "ids say what is equal and nothing else: ids of 63 bits that differ in one bit do as well as small numbers",
        "ids cast to int32 or to a float, cut to some bits, or hashed again",
        1e-10,
        invariances.ids,
    ),
    Check(
        "large_scores",
        "what is wrong costs the more the larger the scale, without end",
        "scores clamped (at 10, at 20), or a scale that is capped in the loss",
        0.0,
        invariances.large_scores,
    ),
    Check(
        "processes",
        "shares of 1, 2 and 4 processes with unequal numbers of texts sum to the loss and gradients of one process",
        "a gather without gradient, candidates of this process alone, or a mean of local means",
        1e-9,
        training.processes,
    ),
    Check(
        "state",
        "carried state keeps its form, survives saving, has an effect if it moves, and is the same in all processes",
        "state from this process's samples alone, or kept in the object instead of the answer",
        1e-9,
        training.state,
    ),
    Check(
        "replay",
        "with cached embeddings the loss is evaluated once and replayed in micro-batches: the same gradients, scale once",
        "the loss needs more of its inputs than their numbers, or counts the scale's gradient once for every chunk",
        1e-9,
        training.replay,
    ),
    Check(
        "repeatable",
        "the same inputs give the same bits, also from a new instance",
        "something random, or state hidden in the object",
        0.0,
        training.repeatable,
    ),
    Check(
        "inputs_kept",
        "arguments are not changed",
        "an operation in place, such as div_ or masked_fill_",
        0.0,
        training.inputs_kept,
    ),
    Check(
        "precision",
        "bf16 and fp16 inputs, and autocast, give the float32 answer for the rounded inputs",
        "products in half precision: cast with at_least_float32 and switch autocast off (full_precision)",
        2e-5,
        numbers.precision,
    ),
    Check(
        "edges",
        "value and gradients are finite for one pair, constant, zero, tiny and huge inputs, copies, opposites, at scale 100",
        "a norm without guard, log of a softmax instead of log_softmax, a mean over nothing",
        0.0,
        numbers.edges,
    ),
    Check("input_length", "whether the length of the inputs matters", "", 0.0, invariances.input_length, judged=False),
)
NAMES = tuple(check.name for check in CHECKS)
