"""K-Precision: closed forms, its bound by R@1, and degenerate models."""

import numpy as np
import pytest
import torch
from eval_fakes import encoded
from hypothesis import given
from hypothesis import strategies as st

from wholegrain.errors import UserError
from wholegrain.evaluation.tasks.faithfulness import content_tokens, faithfulness, k_precision, tokens
from wholegrain.evaluation.tasks.retrieval import retrieval

WORDS = st.lists(st.sampled_from(["dog", "cat", "red", "mat", "on"]), max_size=6)


def test_words_are_counted_not_only_looked_up():
    assert k_precision(["dog", "dog"], [["dog"]]) == 0.5
    assert k_precision(["dog", "dog"], [["dog"], ["dog"]]) == 1
    assert k_precision(["dog", "dog"], [["dog"], ["dog"]], "max") == 0.5
    assert k_precision([], [["dog"]]) == 0
    assert tokens("The A-frame, an old one!") == ["aframe", "old", "one"]
    with pytest.raises(UserError, match="reference"):
        k_precision(["dog"], [])


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_the_best_reference_is_never_above_all_together(said, references):
    best, together = k_precision(said, references, "max"), k_precision(said, references)
    assert 0 <= best <= together <= 1
    if said and said in references:
        assert best == 1


def test_nouns_and_adjectives_alone():
    tags = {"red": "JJ", "dog": "NN"}
    assert content_tokens("the red dog runs", lambda text: [(w, tags.get(w, "DT")) for w in text.split()]) == ["red", "dog"]


def case(noise, count=40, seed=0):
    rng = torch.Generator().manual_seed(seed)
    images = torch.nn.functional.normalize(torch.randn(count, 16, generator=rng), dim=1)
    owner = torch.arange(count).repeat_interleave(2)
    captions = images[owner] + noise * torch.randn(2 * count, 16, generator=rng)
    return encoded(
        images, captions, owner, texts=[f"thing {n // 2} is seen {'left' if n % 2 else 'right'} w{n}" for n in range(2 * count)]
    )


def test_it_is_never_below_recall_at_one():
    for noise in (0.0, 0.3, 1.0):
        found, recall = faithfulness(case(noise)), retrieval(case(noise)).metrics["text_retrieval_recall@1"]
        assert found.metrics["k_precision_max"] >= recall
        assert found.metrics["k_precision_union"] >= found.metrics["k_precision_max"]
    assert faithfulness(case(0.0)).metrics["k_precision_max"] == 1


def test_degenerate_models_score_what_any_caption_would():
    constant = case(0.0)
    constant.image.pooled_BD[:] = 1
    constant.text.pooled_ND[:] = 1
    found = faithfulness(constant, draws=200).figure("k_precision_union")
    assert found.value == pytest.approx(found.chance, abs=0.01)
    assert found.shuffled == pytest.approx(found.value)
    good = faithfulness(case(0.0)).figure("k_precision_union")
    assert good.shuffled == pytest.approx(good.chance, abs=0.08)
    assert np.isfinite([good.low, good.high]).all()
