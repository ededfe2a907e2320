"""A score that sees the whole and the grain: the cosine of the pooled vectors, and the caption's noun phrases against the patches.

A pooled vector is a mean, and a mean cannot hold which colour sits on which noun: "a red cup and a blue sun" and "a blue cup and a red sun"
have nearly the same one. But a phrase that must find *one* place that is both red and a cup can tell them apart, if the patches can.
For image i and text t with noun phrases p in P(t)::

    whole(i, t) = cos(v_i, t)                                     the pooled vectors (the mean over branches, where there are several)
    grain(i, t) = sum_p a_p cos(g_ip, p)                          a_p weights of the text's phrases, sum 1
    g_ip        = sum_k softmax_k(cos(x_ik, p) / temperature) x_ik    the patches x_ik of the image that the phrase attends to
    score(i, t) = whole(i, t) + weight grain(i, t)                a text without phrases: whole(i, t)

Nothing is trained here: any model with patch vectors in the space of its texts has such a score (:class:`WholeAndGrain` wraps it), and
whether it helps is a question for development data
(:func:`wholegrain.evaluation.tasks.grain_weight.choose_grain`). Relations, counts and negation are in no phrase, so those stay what
the whole makes of them; with a large weight the phrases drown it.

Cost: every distinct phrase goes through the text tower once; a pair costs P x D products for each phrase, so score a shortlist
(``RetrievalOptions(shortlist=...)``), not all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from wholegrain.data.batch import Phrases
from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.scores.similarity import index_vectors, unit
from wholegrain.evaluation.scores.wrapper import ModelWrapper
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.whole_and_grain import grain
from wholegrain.text.words.phrases import NounPhrases
from wholegrain.towers.identity import model_digest


@dataclass(frozen=True)
class GrainOptions:
    """How a model is scored by whole and grain, as a command line says it.

    Attributes:
        weight, temperature: see :class:`WholeAndGrain`.
        pipeline: the spaCy pipeline that finds phrases; empty is the built-in tagger.
    """

    weight: float
    temperature: float = 0.1
    pipeline: str = ""

    @classmethod
    def parse(cls, text: str) -> GrainOptions:
        """``WEIGHT``, ``WEIGHT:TEMPERATURE`` or ``WEIGHT:TEMPERATURE:PIPELINE``.

        Raises:
            UserError: anything else.

        Example:
            >>> GrainOptions.parse("1:0.05")
            GrainOptions(weight=1.0, temperature=0.05, pipeline='')
        """
        weight, _, rest = text.partition(":")
        temperature, _, pipeline = rest.partition(":")
        try:
            return cls(float(weight), float(temperature or 0.1), pipeline)
        except ValueError:
            raise UserError(
                f"grain is {text!r}; write a weight, or a weight and a temperature, such as grain=1 or grain=1:0.1, and behind them a spaCy "
                "pipeline if one is to find the phrases, such as grain=1:0.1:en_core_web_sm."
            ) from None

    def __str__(self) -> str:
        return f"{self.weight:g}:{self.temperature:g}" + (f":{self.pipeline}" if self.pipeline else "")

    def of(self, model: EvaluatedModel) -> WholeAndGrain:
        """The model, scored so."""
        if not self.pipeline:
            return WholeAndGrain(model, self.weight, self.temperature)
        from wholegrain.text.words.tagging_spacy import SpacyTagger

        return WholeAndGrain(model, self.weight, self.temperature, NounPhrases(SpacyTagger(self.pipeline)))


class WholeAndGrain(ModelWrapper):
    """A model that scores pairs by whole and grain; for everything else it is the model that it wraps.

    Args:
        model: a two-tower model with patches; not one that scores pairs jointly already.
        weight: of the grain; 0 is the whole alone.
        temperature: of the softmax over patches, in cosines; > 0.
        phrases: where noun phrases come from; the built-in tagger's by default.

    Raises:
        UserError: the model has a joint score of its own, or a setting is out of range.

    Example::

        evaluate(WholeAndGrain(load_model("runs/latest"), weight=1.0), dataset, tasks="retrieval,composition")
    """

    score_needs = frozenset({"patches", "phrases"})
    own_needs = frozenset({"phrases"})
    """Encoded by :func:`wholegrain.evaluation.features.encode.encode_texts`, which has the words."""

    def __init__(self, model: EvaluatedModel, weight: float = 1.0, temperature: float = 0.1, phrases: Phrases | None = None) -> None:
        if getattr(model, "score", None) is not None:
            raise UserError("The model scores pairs jointly already, so there is no whole to add a grain to; leave the grain out.")
        if not 0 <= weight < float("inf") or not 0 < temperature < float("inf"):
            raise UserError(f"The grain's weight is {weight} and its temperature {temperature}; use 0 or more, and more than 0.")
        super().__init__(model)
        self.weight, self.temperature = weight, temperature
        self.phrases_of: Phrases = NounPhrases() if phrases is None else phrases

    @property
    def scored_by(self) -> str:
        """What the same features are scored by."""
        return f"whole and grain {self.weight:g}:{self.temperature:g}"

    @property
    def content_hash(self) -> str:
        """Of the model; phrases are texts of their own in a cache of features, but which phrases a text has is part of them."""
        probe = self.phrases_of(["a small red cup left of the two blue suns that a man holds", "no dogs, not a cat", "a photo of a top"])
        return f"{model_digest(self.model)} {probe}"

    def score(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """``[B, N]``, see the module; needs ``patches_BPD`` and ``phrases_NKD``."""
        whole_BN = index_vectors(image) @ unit(text.pooled_ND).T
        return whole_BN + self.weight * grain(image, text, self.temperature) if self.weight else whole_BN
