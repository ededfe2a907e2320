"""The plan: a function of (seed, epoch), whole batches, exact doses of twins."""

import itertools
from collections import Counter

import numpy as np
import pytest

from wholegrain.data.layout import Layout
from wholegrain.errors import UserError
from wholegrain.training.loading.plan import Plan
from wholegrain.training.loading.twin_doses import pairs_of

KEYS = [f"k{number:03d}" for number in range(103)]


def epoch_of(plan: Plan, epoch: int) -> list[list[str]]:
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    return [[key for key, _ in plan.batch(step)] for step in steps]


def test_an_epoch_takes_every_key_at_most_once_and_only_whole_batches():
    plan = Plan(KEYS, batch=10, seed=1)
    assert plan.steps_per_epoch == 10
    for epoch in range(3):
        seen = list(itertools.chain(*epoch_of(plan, epoch)))
        assert len(seen) == 100 == len(set(seen))


def test_order_depends_on_seed_and_epoch_and_on_nothing_that_was_asked_before():
    first, other = Plan(KEYS, 10, 1), Plan(KEYS, 10, 1)
    jumped = other.batch(25)
    assert [first.batch(step) for step in range(30)][25] == jumped
    assert epoch_of(first, 0) != epoch_of(first, 1)
    assert epoch_of(first, 0) != epoch_of(Plan(KEYS, 10, 2), 0)


def test_positions_count_samples_from_the_beginning():
    plan = Plan(KEYS, 10, 1)
    positions = [position for step in range(25) for _, position in plan.batch(step)]
    assert positions == list(range(250))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.6])
def test_the_dose_of_twins_is_exact_and_all_other_twins_are_apart(share):
    twins = {KEYS[n]: KEYS[n ^ 1] for n in range(80)}
    plan = Plan(KEYS, 10, 3, twin_share=share, twin_of=twins)
    for epoch in range(4):
        batches = epoch_of(plan, epoch)
        together = sum(twins.get(key) in batch for batch in batches for key in batch)
        assert together == 2 * round(share * 100 / 2)
        assert len(set(itertools.chain(*batches))) == 100
    assert epoch_of(plan, 0) == epoch_of(Plan(KEYS, 10, 3, twin_share=share, twin_of=twins), 0)


def test_the_chosen_twins_differ_between_epochs():
    twins = {KEYS[n]: KEYS[n ^ 1] for n in range(80)}
    plan = Plan(KEYS, 10, 3, twin_share=0.2, twin_of=twins)
    chosen = [{key for batch in epoch_of(plan, e) for key in batch if twins.get(key) in batch} for e in range(2)]
    assert chosen[0] != chosen[1]


def test_too_few_images_and_too_few_twins_are_refused():
    with pytest.raises(UserError, match=r"optimiser\.batch to 103"):
        Plan(KEYS, 104, 0)
    with pytest.raises(UserError, match=r"twin_share"):
        Plan(KEYS, 10, 0, twin_share=0.5, twin_of={KEYS[0]: KEYS[1]})


def layout_of(*sizes, weights=(), per_shard=5):
    """Sources of so many images each, five to a shard."""
    keys = np.array([f"{'abc'[s]}{n:04d}".encode() for s, size in enumerate(sizes) for n in range(size)])
    sources = np.repeat(np.arange(len(sizes)), sizes)
    firsts = np.cumsum([0, *(-(-size // per_shard) for size in sizes)])
    shards = np.concatenate([first + np.arange(size) // per_shard for first, size in zip(firsts, sizes, strict=False)])
    return Layout(keys, shards, sources, tuple("abc"[: len(sizes)]), weights)


def flat(plan, epochs):
    return [key for epoch in range(epochs) for batch in epoch_of(plan, epoch) for key in batch]


def test_a_window_holds_a_few_shards_and_is_mixed():
    layout = layout_of(100)
    plan = Plan(layout, 10, 0, window=4)
    shard = dict(zip(layout.keys, layout.shard_N.tolist(), strict=True))
    windows = [flat(plan, 1)[first : first + 20] for first in range(0, 100, 20)]
    used = [{shard[key] for key in window} for window in windows]
    assert all(len(shards) == 4 for shards in used)
    assert set.union(*used) == set(range(20))
    assert all(len({shard[key] for key in window[:10]}) > 2 for window in windows), "samples of several shards stand together"
    assert used != [{shard[key] for key in flat(plan, 2)[100 + first : 120 + first]} for first in range(0, 100, 20)]
    alone = [[shard[key] for key in flat(Plan(layout, 10, 0, window=1), 1)][first : first + 5] for first in range(0, 100, 5)]
    assert all(len(set(five)) == 1 for five in alone)
    assert [five[0] for five in alone] != sorted(five[0] for five in alone), "shards are shuffled"


@pytest.mark.parametrize("window", [0, 2])
def test_a_mixture_has_exact_shares_and_no_image_twice_in_a_pass(window):
    layout = layout_of(60, 25, 15, weights=(3, 2, 5))
    plan = Plan(layout, 10, 4, window=window)
    assert plan.steps_per_epoch == 10
    seen: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    for epoch in range(5):
        keys = [key for batch in epoch_of(plan, epoch) for key in batch]
        assert Counter(key[0] for key in keys) == {"a": 30, "b": 20, "c": 50}
        for key in keys:
            seen[key[0]].append(key)
    for source, size in (("a", 60), ("b", 25), ("c", 15)):
        for first in range(0, len(seen[source]) - size, size):
            assert len(set(seen[source][first : first + size])) == size
        assert seen[source][:size] != seen[source][size : 2 * size]
    assert Plan(layout, 10, 4, window=window).batch(37) == plan.batch(37)
    assert Plan(layout, 10, 5, window=window).batch(37) != plan.batch(37)


def test_without_weights_sources_count_by_size_and_batches_mix_them():
    plan = Plan(layout_of(60, 25, 15), 10, 0)
    assert len(set(flat(plan, 1))) == 100
    assert any(len({key[0] for key in batch}) > 1 for batch in epoch_of(plan, 0))


def test_batches_of_one_source_each_have_exact_shares_of_batches():
    plan = Plan(layout_of(60, 25, 15, weights=(1, 1, 2)), 10, 0, per_source=True)
    for epoch in range(3):
        batches = epoch_of(plan, epoch)
        assert all(len({key[0] for key in batch}) == 1 for batch in batches)
        assert Counter(batch[0][0] for batch in batches) == {"a": 3, "b": 2, "c": 5}
    assert [b[0][0] for b in epoch_of(plan, 0)] != [b[0][0] for b in epoch_of(plan, 1)]


def test_twins_in_a_mixture_keep_dose_and_shares():
    layout = layout_of(60, 43)
    keys = list(layout.keys)
    twins = {keys[n]: keys[n ^ 1] for n in range(102)}
    with pytest.raises(UserError, match="no image twice in an epoch"):
        Plan(layout_of(60, 43, weights=(1, 1)), 10, 0, 0.2, twins)
    plan = Plan(layout, 10, 0, 0.2, twins)
    for epoch in range(3):
        batches = epoch_of(plan, epoch)
        assert sum(twins.get(key) in batch for batch in batches for key in batch) == 20
        assert Counter(key[0] for batch in batches for key in batch) == {"a": 58, "b": 42}
        assert len({key for batch in batches for key in batch}) == 100


def test_weights_must_be_above_zero():
    with pytest.raises(UserError, match="above 0"):
        Plan(layout_of(60, 43, weights=(1, 0)), 10, 0)


def test_an_image_of_several_twins_is_paired_with_the_last_alone():
    twin_of = {"A": "C", "B": "A", "C": "A"}  # of the twins (A, B) and then (C, A)
    assert pairs_of(["B", "A", "C"], twin_of).tolist() == [[1, 2]]
