"""Few-shot linear probes: logistic regression on frozen features with 1, 2, 4, 8 or 16 pictures of each class.

As in CoOp (Zhou et al. 2022, section 4.1), which took it over from CLIP's paper: so many pictures of each class are drawn from the training
part, the L2 weight is chosen on min(shots, 4) further ones of each class (on none of the test pictures), and the whole test part is
classified. It is done for several draws; intervals are over draws and pictures. Where no further pictures are left, the L2 weight is
:data:`DEFAULT_L2`. Chance is 1 / classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.evaluation.statistics.intervals import bootstrap_over_seeds
from wholegrain.evaluation.statistics.rows import Rows, join, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.tasks.linear_probe import LabelledFeatures, choose_l2, fit_logistic
from wholegrain.evaluation.tasks.zero_shot import unique_names

SHOTS = (1, 2, 4, 8, 16)
DEFAULT_L2 = 1e-2


def few_shot(
    task: str,
    train: LabelledFeatures,
    test: LabelledFeatures,
    classes: Sequence[str],
    keys: Sequence[str],
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = 5,
    seed: int = 0,
) -> TaskResult:
    """``K_shot/acc1`` for every number of shots.

    Args:
        train: to draw from.
        test: to classify.
        keys: of the test pictures.
        draws: how often the shots are drawn.

    Raises:
        UserError: when ``shots`` or ``draws`` are below 1, or the training part has fewer than two classes.
    """
    if min(*shots, draws) < 1:
        raise UserError("Shots and draws must be 1 or more.")
    if len(train.class_N.unique()) < 2:
        raise UserError(f"{task} needs a training part with two classes or more; give one, or leave out --shots.")
    parts, found, short, other = [], [], 0, stand_ins(keys, seed)
    for count in shots:
        hits = []
        for draw in range(draws):
            used, held, missing = drawn(train.class_N, count, np.random.default_rng([seed, 11, count, draw]))
            short = max(short, missing)
            few = train.select(used)
            l2 = choose_l2(few, train.select(held), len(classes)) if len(held) else DEFAULT_L2
            hits.append(fit_logistic(few.x_ND, few.class_N, len(classes), l2)(test.x_ND).argmax(1))
        guess_SN = torch.stack(hits)
        right_SN = (guess_SN == test.class_N).double().numpy()
        control_N = None if other is None else (guess_SN[:, torch.from_numpy(other)] == test.class_N).double().numpy().mean(0)
        low, high = bootstrap_over_seeds(right_SN, list(keys), seed=seed)
        value, control = float(right_SN.mean()), None if control_N is None else float(control_N.mean())
        note = f"{draws} draws, from {100 * right_SN.mean(1).min():.1f}% to {100 * right_SN.mean(1).max():.1f}%"
        found.append(Figure(f"{count}_shot/acc1", value, low, high, len(keys), 1 / len(classes), control, note=note))
        extra = {f"draw_{n}": row.astype(bool).tolist() for n, row in enumerate(right_SN)}
        values, shuffled = {"acc1": right_SN.mean(0)}, {} if control_N is None else {"acc1": control_N}
        group = [f"{count}_shot"] * len(keys)
        parts.append(
            Rows(unique_names(keys), group, keys, values, {"acc1": 1 / len(classes)}, shuffled, np.zeros(len(keys), bool), extra)
        )
    protocol = (
        f"Logistic regression on {', '.join(map(str, shots))} pictures of each class, {draws} draws each, L2 chosen on up to 4 further ones of "
        f"each class, tested on {len(keys):,} pictures; intervals over draws and pictures"
        + (f"; {short:,} classes have too few pictures for {max(shots)} shots and give all that they have." if short else ".")
    )
    return TaskResult(task, protocol, tuple(found), table(join(parts)))


def drawn(label_N: Tensor, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, int]:
    """Places of ``count`` pictures of each class, places of up to four others of each, and how many classes had too few.

    Example:
        >>> used, held, short = drawn(torch.tensor([0, 0, 0, 1]), 2, np.random.default_rng(0))
        >>> len(used), len(held), short
        (3, 1, 1)
    """
    order = torch.from_numpy(rng.permutation(len(label_N)))
    used, held, short = [], [], 0
    for c in label_N.unique().tolist():
        own = order[label_N[order] == c]
        used.append(own[:count])
        held.append(own[count : count + min(count, 4)])
        short += len(own) < count
    return torch.cat(used), torch.cat(held), short
