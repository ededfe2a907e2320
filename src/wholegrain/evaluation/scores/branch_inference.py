"""How the branches of a multi-branch model become one score of an image and a text (Holistic CLIP, Wang et al., CVPR 2025).

With v_ih branch h of image i (H of them) and t a text, all cosines::

    mean      1/H sum_h cos(v_ih, t)                    Holistic CLIP's released code, for retrieval and classification: the default
    max       max_h cos(v_ih, t)                        the branch that fits best, pair by pair
    concat    cos([v_i1, ..., v_iH], [t, ..., t])       the branches as one long vector, against the text H times
    selector  cos(v_ih, t) of one branch h              ``selector:H`` names it; ``selector`` has it chosen on development data

The released code has the mean alone; the maximum stands in its training (free matching), a combination or selection of branches by task in the
paper's text, without code. What ``concat`` and ``selector`` are here is ours. ``concat`` is taken of the branches as the model gives them: a long
branch weighs more than a short one; of unit branches it is the mean. Scores of pairs are made so; a probe of features reads the mean.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.scores.similarity import index_vectors, unit
from wholegrain.evaluation.scores.wrapper import ModelWrapper
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.suggest import closest
from wholegrain.towers.identity import model_digest

SELECTOR = "selector"


def _mean(branches_BHD: Tensor, text_ND: Tensor) -> Tensor:
    return index_vectors(ImageFeatures(branches_BHD[:, 0], branches_BHD)) @ text_ND.T


def _max(branches_BHD: Tensor, text_ND: Tensor) -> Tensor:
    unit_BHD = unit(branches_BHD)
    best_BN = unit_BHD[:, 0] @ text_ND.T
    for h in range(1, unit_BHD.shape[1]):  # one branch's scores at a time, not H times the matrix
        best_BN = torch.maximum(best_BN, unit_BHD[:, h] @ text_ND.T)
    return best_BN


def _concat(branches_BHD: Tensor, text_ND: Tensor) -> Tensor:
    # the text H times is a vector of length sqrt(H), and its dot product with the long one is that with the sum of its parts
    branches_BHD = branches_BHD.float()
    length_B1 = branches_BHD.flatten(1).norm(dim=1, keepdim=True).clamp_min(1e-12) * branches_BHD.shape[1] ** 0.5
    return branches_BHD.sum(1) / length_B1 @ text_ND.T


INFERENCE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": _mean, "max": _max, "concat": _concat}
"""Name -> scores ``[B, N]`` of branches ``[B, H, D]`` with unit texts ``[N, D]``; ``selector`` beside them."""


def parse_inference(text: str) -> tuple[str, int | None]:
    """The name, and the branch of ``selector:H`` (from 0).

    Raises:
        UserError: anything else.

    Example:
        >>> parse_inference("max"), parse_inference("selector:2"), parse_inference("selector")
        (('max', None), ('selector', 2), ('selector', None))
    """
    name, colon, branch = text.partition(":")
    if name not in (*INFERENCE, SELECTOR):
        raise UserError(f"There is no branch inference {name!r}; {closest(name, (*INFERENCE, SELECTOR))}")
    if not colon:
        return name, None
    if name != SELECTOR or not branch.isdecimal() or len(branch) > 4:
        raise UserError(f"branch inference is {text!r}; write mean, max, concat, selector, or selector:2 for the branch 2 (from 0).")
    return name, int(branch)


class BranchInference(ModelWrapper):
    """A multi-branch model that scores pairs by its branches in another way than their mean; for everything else it is the model that it wraps.

    Args:
        model: with branches, and without a joint score of its own.
        how: ``mean``, ``max``, ``concat`` or ``selector:H``.

    Raises:
        UserError: a model without branches or with a joint score, an unknown name, or a branch that the model has not.

    Example::

        evaluate(BranchInference(load_model("runs/latest"), "max"), dataset, tasks="retrieval")
    """

    score_needs: frozenset[str] = frozenset({"branches"})
    scores_vectors = True
    """The score needs a text's pooled vector alone, so an ensemble of sentences is one vector, as for any two-tower model."""

    def __init__(self, model: EvaluatedModel, how: str) -> None:
        if getattr(model, "score", None) is not None:
            raise UserError("The model scores pairs jointly already, so there are no branches to combine; leave the branch inference (or the grain) out.")
        count = branch_count(model)
        name, branch = parse_inference(how)
        if count < 2:
            raise UserError(f"The model has one vector an image and no branches, so branch inference {how!r} means nothing; leave it out.")
        if name == SELECTOR and branch is None:
            raise UserError("selector needs the branch that it selects, as selector:0; choose_branch finds it on development data.")
        if branch is not None and branch >= count:
            raise UserError(f"The model has the branches 0 to {count - 1}, and {how!r} asks for another one.")
        super().__init__(model)
        self.how, self.branch = how, branch
        self._scores = (lambda branches, text: unit(branches[:, branch]) @ text.T) if branch is not None else INFERENCE[name]

    @property
    def scored_by(self) -> str:
        """What the same features are scored by; part of the identity of results."""
        return f"branches by {self.how}"

    @property
    def content_hash(self) -> str:
        """Of the model: its features are the same however they are scored, and are kept once."""
        return model_digest(self.model)

    def encode_texts(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = frozenset()) -> TextFeatures:
        """As the model's: int64 ``[N, L]`` and ``[N]``; texts have no branches."""
        return super().encode_texts(tokens_NL, length_N, needs - {"branches"})

    def score(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """``[B, N]``, see the module; needs ``branches_BHD``."""
        if image.branches_BHD is None:
            raise UserError("The features have no branches, so they cannot be scored by them; encode them with this model.")
        return self._scores(image.branches_BHD, unit(text.pooled_ND))


def branch_count(model: object) -> int:
    """H, or 1 for a model without branches."""
    found = getattr(getattr(model, "head", model), "branches", None)
    return found if isinstance(found, int) and found > 0 else 1
