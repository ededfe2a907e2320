"""The plan: a function of (seed, epoch), whole batches, exact doses of twins."""

import itertools

import pytest

from wholegrain.errors import UserError
from wholegrain.training.plan import Plan

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
