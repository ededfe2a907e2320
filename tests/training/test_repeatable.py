"""A step on a processor has the same bits however its threads fall."""

import pytest
import torch

from wholegrain.training.memory.repeatable import repeatable

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_rows_that_an_index_repeats_are_added_in_one_order(two_threads):
    x, index, gradient = torch.randn(4, 64, requires_grad=True), torch.randint(0, 4, (20_000,)), torch.randn(20_000, 64)
    found = []
    for _ in range(8):
        x.grad = None
        with repeatable(CPU):
            x[index].backward(gradient)
        found.append(x.grad)
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize(("asked", "warn_only"), [(False, False), (True, False), (True, True)])
def test_the_callers_own_setting_stands_afterwards_and_where_it_is_stricter(asked, warn_only):
    torch.use_deterministic_algorithms(asked, warn_only=warn_only)
    try:
        with repeatable(CPU):
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled() == (warn_only or not asked)
            assert torch.utils.deterministic.fill_uninitialized_memory == asked
        assert torch.are_deterministic_algorithms_enabled() == asked
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only
        assert torch.utils.deterministic.fill_uninitialized_memory
        with repeatable(torch.device("meta")):
            assert torch.are_deterministic_algorithms_enabled() == asked
    finally:
        torch.use_deterministic_algorithms(False)
