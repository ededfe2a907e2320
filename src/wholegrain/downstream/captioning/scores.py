"""Scores of captions against what people (or scenes) say of the picture: CIDEr-D by coco-caption, K-Precision."""

from __future__ import annotations

import importlib
import string
from collections.abc import Sequence

import numpy as np

from wholegrain.downstream.captioning.decoder import NEEDED
from wholegrain.errors import UserError
from wholegrain.evaluation.tasks.faithfulness import k_precision, tokens

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def require_scorer() -> None:
    """Raises :class:`UserError` where pycocoevalcap is not installed."""
    try:
        importlib.import_module("pycocoevalcap.cider.cider")
    except ImportError:
        raise UserError(NEEDED) from None


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """CIDEr-D of each caption, float64 ``[N]`` in 0..10; its mean is the corpus' score (Vedantam et al., CVPR 2015, section 5).

    The scorer is coco-caption's (``pycocoevalcap.cider``, n = 4, sigma = 6), whose "CIDEr" is CIDEr-D; papers print it times 100 (a mean of 1.2 is
    "120"). Document frequencies are those of the references given, so a score belongs to its set of pictures. coco-caption splits words with
    Stanford's tokeniser, a Java program; here texts are put into lower case, lose their punctuation and are split at spaces, the same for captions
    and references: "sky-blue" is one word, "dog's" is "dogs".

    Args:
        captions: one a picture.
        references: one or more a picture.

    Raises:
        UserError: pycocoevalcap is missing, or there are fewer than two pictures (every word would be in all of them).

    Example:
        >>> cider(["a red cup", "a blue sun"], [["a red cup"], ["a green sun"]]).round(2).tolist()
        [7.5, 1.25]
    """
    require_scorer()
    from pycocoevalcap.cider.cider import Cider

    if len(captions) < 2:
        raise UserError("CIDEr weighs words by how many pictures have them, so it needs two pictures or more; choose another --split.")
    given = {n: [_words(text) for text in texts] for n, texts in enumerate(references)}
    found = {n: [_words(text)] for n, text in enumerate(captions)}
    return np.asarray(Cider().compute_score(given, found)[1], dtype=np.float64)


def _words(text: str) -> str:
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def k_precisions(captions: Sequence[str], said: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Figure -> float64 ``[N]``: the share of each caption's words that stand in what is said of its picture, see
    :mod:`wholegrain.evaluation.tasks.faithfulness`: ``union`` of all texts, and the best single one."""
    split = [[tokens(text) for text in texts] for texts in said]
    found = [tokens(text) for text in captions]
    return {
        f"k_precision_{how}": np.array([k_precision(words, texts, how) for words, texts in zip(found, split, strict=True)])
        for how in ("union", "max")
    }
