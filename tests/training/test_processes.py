"""The same training in one, two and four processes: samples, losses, gradients and weights; and going on with another number."""

import pytest
import torch
from same_training import RECIPES, apart, differences, in_processes, joined
from tiny_training import make_dataset

from wholegrain.errors import UserError
from wholegrain.training.loading.loader import PlanSampler
from wholegrain.training.loading.plan import Plan


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), splits=("train",)).folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_one_two_and_four_processes(data, name):
    (alone,) = in_processes(1, data, name)
    assert alone.gradients.abs().max() > 1e-3
    for world in (2, 4):
        processes = in_processes(world, data, name)
        assert joined(processes, "keys") == alone.keys
        assert joined(processes, "texts") == alone.texts
        assert max(differences(processes, alone)) < 1e-9
        for other in processes[1:]:
            assert torch.equal(other.weights, processes[0].weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wholegrain", "cosmos"])
def test_going_on_with_another_number_of_processes(data, tmp_path, name):
    """One, two, four and again one, of two steps each; recipes with carried state and with a teacher."""
    (alone,) = in_processes(1, data, name)
    before = None
    for start, world in ((0, 1), (2, 2), (4, 4), (6, 1)):
        after = tmp_path / str(start)
        processes = in_processes(world, data, name, start=start, stop=start + 2, here=before, there=after)
        assert joined(processes, "keys") == alone.keys[start : start + 2]
        assert apart(processes[0].numbers, alone.numbers[start : start + 2]) < 1e-9
        assert apart(processes[0].gradients, alone.gradients[start : start + 2]) < 1e-9
        before = after
    assert apart(processes[0].weights, alone.weights) < 1e-9


@pytest.mark.slow
def test_four_processes_go_on_bit_for_bit(data, tmp_path):
    """Sums of four depend on their order: in DDP's case on how gradients lie in its buckets."""
    whole = in_processes(4, data, "ce_clip", stop=6)
    in_processes(4, data, "ce_clip", stop=3, there=tmp_path)
    rest = in_processes(4, data, "ce_clip", start=3, stop=6, here=tmp_path)
    for one, other in zip(rest, whole, strict=True):
        assert torch.equal(one.numbers, other.numbers[3:])
        assert torch.equal(one.gradients, other.gradients[3:])
        assert torch.equal(one.weights, other.weights)


def test_a_batch_that_processes_cannot_share():
    with pytest.raises(UserError, match="10 and must be a multiple of the 4 processes"):
        PlanSampler(Plan([str(n) for n in range(20)], 10, 0), 0, 1, 0, 4)
