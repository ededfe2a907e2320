"""Will it learn? The loss at the start, gradients, one batch learned by heart, and a rising learning rate."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from wholegrain.data.batch import Batch
from wholegrain.doctor.finding import Finding
from wholegrain.doctor.trial import Trial
from wholegrain.progress import Show, each, nowhere

IMAGES = (16, 8, 4)
"""Batch sizes that are tried; the first one that can be afforded."""
SECONDS = 25.0
"""A test takes about so long at most: slow models get fewer steps."""
FEWEST, STEPS = 12, 40
LOWEST, HIGHEST = 1e-7, 1e-1


@dataclass(frozen=True)
class Rates:
    """What a few steps at each of several learning rates did, each time from the same weights.

    Attributes:
        rates, losses: the loss after the last step, relative to the loss before the first one or to guessing, whichever is lower: what only
            collapses to the same vector for everything does not fall.
        updates: steps at each rate.
        falls: the lowest rate with a tenth of the best rate's fall; infinite if the loss falls by less than 2% at every rate.
        fastest: the rate at which the loss fell farthest; infinite likewise.
        diverges: the lowest rate above that from which on not even a tenth of that fall is there, or the loss rises; infinite if there is
            none.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    updates: int
    falls: float
    fastest: float
    diverges: float


def start(trial: Trial, batch: Batch, trained_before: bool) -> list[Finding]:
    """The loss before the first step against that of guessing, and whether every trained part gets a gradient."""
    loss = trial.loss(batch)
    chance = guessing(trial, batch)
    images, value = len(batch.keys), float(loss.detach())
    numbers = {"loss": value, "guessing": chance, "log of images": math.log(images), "images": images}
    if not math.isfinite(value):
        do = "look at the batch's pictures and captions; use fp32 (optimiser.precision)"
        return [
            Finding("loss at the start", "stop", f"The loss of the first {images} images is not a finite number.", do, numbers)
        ]
    loss.backward()
    findings = _gradients(trial.model)
    trial.model.zero_grad(set_to_none=True)
    said = f"The loss of {images} images with different captions starts at {value:.3g}; guessing is {chance:.3g}"
    if trained_before and value > 0.9 * chance > 0:
        said += ": the model was trained before, and finds nothing of these captions in these pictures."
        do = "check that captions belong to their pictures, the caption field, and the language"
        return [*findings, Finding("loss at the start", "look", said, do, numbers)]
    if value > 3 * chance + 1:
        said += ": far worse than guessing."
        do = "lower the temperature's inverse, or check that captions belong to their pictures"
        return [*findings, Finding("loss at the start", "look", said, do, numbers)]
    return [*findings, Finding("loss at the start", "fine", said + ".", numbers=numbers)]


def _gradients(model: nn.Module) -> list[Finding]:
    """Of every part that is trained: finite, and not all zero."""
    norms, findings = {}, []
    for name in ("image_tower", "text_tower", "head"):
        trained = [p for p in model.get_submodule(name).parameters() if p.requires_grad]
        if trained:
            norms[name] = math.sqrt(sum(float(p.grad.double().square().sum()) for p in trained if p.grad is not None))
    for name, norm in norms.items():
        if not math.isfinite(norm):
            findings.append(
                Finding("gradients", "stop", f"The gradient of {name} is not finite.", "use fp32 (optimiser.precision)", norms)
            )
        elif norm == 0:
            do = "no loss of the recipe reaches it: check model.head and the terms, or freeze it (model.tune_image, model.tune_text)"
            findings.append(Finding("gradients", "stop", f"{name} is to be trained and its gradient is zero.", do, norms))
    if not norms:
        do = "set model.tune_image or model.tune_text, or a head that learns"
        return [Finding("gradients", "stop", "Nothing is trained: both towers are frozen and the head has no weights.", do)]
    said = ", ".join(f"{name} {norm:.2g}" for name, norm in norms.items())
    return findings or [Finding("gradients", "fine", f"Every trained part gets a gradient ({said}).", numbers=norms)]


def affordable(trial: Trial) -> tuple[Batch, int]:
    """A batch, and how many steps on it fit into the time of a test; fewer images, and then fewer steps, for slow models."""
    images = len(trial.dataset.layout(trial.recipe.data.split))
    sizes = [size for size in IMAGES if size <= images] or [max(2, images)]
    for size in sizes:
        batch = trial.batch(size)
        with trial.steps(1e-9) as step:
            step(batch, 1e-9)  # the first one is slow
            began = time.perf_counter()
            step(batch, 1e-9)
            seconds = time.perf_counter() - began
        steps = min(STEPS, int(SECONDS / max(seconds, 1e-9)))
        if steps >= STEPS // 2 or size == sizes[-1]:
            return batch, steps
    raise AssertionError("the last size is always taken")


def guessing(trial: Trial, batch: Batch) -> float:
    """The loss of a model to which all images are the same, and all texts."""
    with torch.no_grad():
        return float(trial.loss(batch, blind=True))


def base(start: float, chance: float) -> float:
    """What a fall is counted from: the start, or guessing where that is lower (and no loss without a floor of zero)."""
    return max(min(start, chance) if chance > 0 else start, 1e-9)


def rising(trial: Trial, batch: Batch, steps: int, show: Show = nowhere) -> Rates:
    """A few steps at each rate from 1e-7 to 0.1, always from the model as it is.

    A range test (L. N. Smith, *Cyclical learning rates for training neural networks*, WACV 2017, section 3.3) lets one run go on while the rate
    rises. A handful of images is learned by heart on the way, long before the high rates come, and the answer would be too low.
    """
    rates = [LOWEST * 10 ** (number / 2) for number in range(13)][:: 1 if steps >= 26 else 2]
    updates, losses, chance = max(1, steps // len(rates) - 1), [], guessing(trial, batch)
    start = 1.0
    for rate in each(rates, "trying learning rates", show):
        with trial.steps(rate) as step:
            outcomes = [step(batch, rate) for _ in range(updates)]
            with torch.no_grad():
                end = float(trial.loss(batch))
        first = outcomes[0].loss if outcomes[0] is not None else math.nan
        start = first / base(first, chance)
        losses.append(end / base(first, chance) if None not in outcomes and math.isfinite(end) else math.inf)
    return read_rates(rates, losses, updates, start)


def read_rates(rates: Sequence[float], losses: Sequence[float], updates: int = 1, start: float = 1.0) -> Rates:
    """See :class:`Rates`; ``start`` is the loss before the first step, relative as they are.

    Example:
        >>> found = read_rates([1e-5, 1e-4, 1e-3, 1e-2], [0.99, 0.9, 0.5, 3.0])
        >>> found.falls, found.fastest, found.diverges
        (0.0001, 0.001, 0.01)
    """
    best = min(range(len(losses)), key=lambda n: losses[n])
    fall = 1 - losses[best]
    falls = fastest = math.inf
    limit = 1.2
    if fall >= 0.02:
        limit, fastest = 1 - 0.1 * fall, rates[best]
        falls = next(rate for rate, loss in zip(rates, losses, strict=True) if loss <= start - 0.1 * (start - losses[best]))
    last = max((n for n, loss in enumerate(losses) if loss <= limit), default=-1)
    diverges = rates[last + 1] if last + 1 < len(rates) else math.inf
    return Rates(tuple(rates), tuple(losses), updates, falls, fastest, diverges)


def learning_rate(trial: Trial, batch: Batch, rates: Rates) -> list[Finding]:
    """The recipe's rate against what the others did; what looks too high is tried with a warm-up before it is said."""
    rate, images = trial.recipe.optimiser.lr, len(batch.keys)
    numbers = {"lr": rate, "begins to fall": rates.falls, "falls farthest": rates.fastest, "diverges": rates.diverges}
    low, high = rates.rates[0], rates.rates[-1]
    fall = f"falls from {rates.falls:.0e} on, farthest at {rates.fastest:.0e}" if math.isfinite(rates.falls) else "hardly falls"
    end = f"gains nothing or rises from {rates.diverges:.0e} on" if math.isfinite(rates.diverges) else "rises nowhere"
    observed = (
        f"{rates.updates} {'step' if rates.updates == 1 else 'steps'} on {images} images at each of {len(rates.rates)} rates from {low:.0e} to {high:.0e}: "
        f"the loss {fall} and {end}; the recipe has {rate:.1e}"
    )
    if rate >= rates.diverges:
        tried, last, begun = _tried(trial, batch, rate)
        do = f"try --lr {rates.diverges / 10:.0e}"
        fall = max(0.0, 1 - min(rates.losses))
        if not last < (1 - 0.1 * fall if fall > 0.2 else 1.2) * base(begun, guessing(trial, batch)):
            said = f"{observed}, and {tried} steps at it, warmed up over five, took the loss from {begun:.3g} to {last:.3g}."
            return [Finding("learning rate", "stop", said, do, numbers)]
        return [Finding("learning rate", "look", f"{observed}, which {tried} steps with a warm-up survived.", do, numbers)]
    if rate < rates.falls / 10 and math.isfinite(rates.falls):
        said = f"{observed}, less than a tenth of where anything happens in few steps; that is usual in long fine-tuning alone."
        return [Finding("learning rate", "look", said, f"consider --lr {rates.falls:.0e}", numbers)]
    return [Finding("learning rate", "fine", f"{observed}.", numbers=numbers)]


def _tried(trial: Trial, batch: Batch, rate: float, steps: int = 10) -> tuple[int, float, float]:
    """Steps taken at a rate, after a warm-up of five, the last loss, and the first."""
    first = last = math.nan
    with trial.steps(rate) as step:
        for number in range(steps):
            outcome = step(batch, rate * min(1.0, (number + 1) / 5))
            if outcome is None:
                return number + 1, math.inf, first
            first, last = (outcome.loss if number == 0 else first), outcome.loss
    return steps, last, first


def by_heart(trial: Trial, batch: Batch, steps: int, rates: Rates, show: Show = nowhere) -> list[Finding]:
    """One small batch over and over: a model and a recipe that can learn at all learn it by heart."""
    high = min(rates.fastest, rates.diverges / 10)
    rate = high if math.isfinite(high) else trial.recipe.optimiser.lr
    images, losses = len(batch.keys), []
    chance = guessing(trial, batch)
    with trial.steps(rate) as step:
        for number in each(range(steps), "learning one batch by heart", show):
            outcome = step(batch, rate * min(1.0, (number + 1) / 5))
            losses.append(math.inf if outcome is None else outcome.loss)
        same = _sameness(trial, batch)
    begun, end = losses[0], sum(losses[-3:]) / 3
    said = f"{steps} steps on the same {images} images at {rate:.0e}: the loss goes from {begun:.3g} to {end:.3g} (guessing is {chance:.3g})"
    numbers = {"start": begun, "end": end, "guessing": chance, "log of images": math.log(images), "steps": steps, "lr": rate}
    if end < 0.7 * base(begun, chance) or end < 0.05 * abs(chance):
        return [Finding("one batch by heart", "fine", said + ".", numbers=numbers)]
    cause = (
        f"the model gives {same} nearly the same vector: frozen, dead, or fed with the same thing"
        if same
        else "too little is trained (model.tune_image, model.tune_text), or the loss does not reach it"
    )
    level = "look" if end < 0.9 * base(begun, chance) else "stop"
    said += ": it should fall well below its start."
    return [Finding("one batch by heart", level, said, f"likely cause: {cause}; see also the other findings", numbers)]


@torch.no_grad()
def _sameness(trial: Trial, batch: Batch) -> str:
    """``all images``, ``all texts`` or nothing: whose vectors differ from their mean by a hundredth at most."""
    image, text, *_ = trial.encoder()(batch, frozenset())
    for name, vectors in (("all images", image.pooled_BD), ("all texts", text.pooled_ND)):
        mean_D = vectors.float().mean(0)
        if float((vectors.float() - mean_D).norm(dim=-1).max()) <= 0.01 * float(mean_D.norm()) + 1e-6:
            return name
    return ""
