"""One process and W processes give the same loss, feature gradients, scale and bias gradients, and carried state."""

from __future__ import annotations

import gloo
import pytest
import torch
from loss_variants import USUAL as CASES

from wholegrain.losses.core.gather import all_reduce_rows, gather_rows, reduce_scatter_rows, row_counts, sum_over, world
from wholegrain.verify.cases import Batch, make_batch

SPLITS = {2: [(0, 2), (2, 6)], 4: [(0, 1), (1, 2), (2, 5), (5, 6)]}


def assert_near(got: torch.Tensor, expected: torch.Tensor, where: str) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10, msg=lambda message: f"{where}: {message}")


def two_steps(loss, batches: list[Batch], group=None) -> dict[str, torch.Tensor]:
    """Values, summed gradients and the last state of two steps with carried state."""
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.5, dtype=torch.float64, requires_grad=True)
    state, found = None, {}
    for step, batch in enumerate(batches):
        batch = batch.fresh()
        output = loss(batch.image, batch.text, batch.pairing, scale, bias, state, group=group)
        output.value.backward()
        state = output.state
        found[f"value {step}"] = output.value.detach()
        found |= {f"part {name} {step}": part for name, part in output.parts.items()}
        for name, leaf in batch.leaves().items():
            found[f"grad {name} {step}"] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    for name, knob in (("scale", scale), ("bias", bias)):
        found[name] = torch.zeros_like(knob) if knob.grad is None else knob.grad
    return found | {f"state {name}": value for name, value in (state or {}).items()}


def all_cases(rank, group, batches: list[Batch], names: list[str]):
    return {name: two_steps(CASES[name], batches, group) for name in names}


@pytest.mark.parametrize("size", SPLITS)
def test_processes_equal_one(size):
    some = ["clip", "negclip", "imc-released", "cmr", "m2m-role", "conditioned-own", "sparc", "siglip"]
    names = list(CASES) if size == 2 else some
    batches = [make_batch(10), make_batch(11, captions=(2, 1, 1, 2, 3, 1))]
    split = [[batch.part(*bounds) for batch in batches] for bounds in SPLITS[size]]
    assert len({len(parts[0].pairing.owner_N) for parts in split}) > 1, "the processes should hold unequal numbers of texts"
    by_rank = gloo.run(size, all_cases, [(parts, names) for parts in split])
    for name in names:
        alone = two_steps(CASES[name], batches)
        for key, expected in alone.items():
            shares = [results[name][key] for results in by_rank]
            if key.startswith("state"):
                for share in shares:
                    assert_near(share, expected, f"{name} {key}")
                continue
            by_row = key.startswith("grad") and "learned." not in key
            joined = torch.cat(shares) if by_row else torch.stack(shares).sum(0)
            assert_near(joined, expected, f"{name} {key}")


def test_a_process_without_texts_takes_part():
    batch = make_batch(12)
    names = ["clip", "negclip", "cmr", "imc-own", "imc-cross", "sparc", "m2m-role", "conditioned", "siglip"]
    empty = batch.part(0, 1)
    empty = Batch(empty.image, empty.text.select(torch.arange(0)), empty.pairing.select_texts(torch.arange(0)))
    rest = batch.part(1, 6)
    whole = batch.part(0, 6)
    kept = (whole.pairing.owner_N > 0).nonzero().squeeze(1)
    whole = Batch(whole.image, whole.text.select(kept), whole.pairing.select_texts(kept))
    by_rank = gloo.run(2, all_cases, [([empty], names), ([rest], names)])
    for name in names:
        alone = two_steps(CASES[name], [whole])
        for key in ("value 0", "scale", "grad pooled_BD 0"):
            shares = [results[name][key] for results in by_rank]
            joined = torch.cat(shares) if key.startswith("grad") else torch.stack(shares).sum(0)
            assert_near(joined, alone[key], f"{name} {key}")


def gathered(rank, group):
    """Unequal rows; every process weighs the gathered rows by its rank + 1."""
    counts = row_counts(rank + 1, rank, device=torch.device("cpu"), group=group)
    x = torch.full((rank + 1, 2), float(rank), requires_grad=True)
    rows = gather_rows(x, counts[0], group)
    ((rank + 1) * rows).sum().backward()
    return world(group), counts, rows.detach(), x.grad, sum_over(torch.tensor(rank + 1.0), group).item()


def test_gather_sums_gradients_of_all_processes():
    for rank, (place, counts, rows, grad, total) in enumerate(gloo.run(3, gathered)):
        assert place == (rank, 3)
        assert counts == [(1, 2, 3), (0, 1, 2)]
        assert rows[:, 0].tolist() == [0, 1, 1, 2, 2, 2]
        assert grad.tolist() == [[6.0, 6.0]] * (rank + 1)
        assert total == 6


def both_ways_back(rank, group):
    grad = torch.arange(12.0).view(6, 2) * (rank + 1)
    counts = (1, 0, 5)
    try:
        scattered = reduce_scatter_rows(grad, counts, group)
    except RuntimeError as problem:  # gloo of older releases
        return str(problem), None
    return scattered, all_reduce_rows(grad, counts, group)


def test_both_ways_back_agree():
    results = gloo.run(3, both_ways_back)
    if results[0][1] is None:
        pytest.skip(f"gloo here cannot reduce-scatter: {results[0][0]}")
    for first, last, (scattered, reduced) in zip((0, 1, 1), (1, 1, 6), results, strict=True):
        torch.testing.assert_close(scattered, 6 * torch.arange(12.0).view(6, 2)[first:last])
        torch.testing.assert_close(scattered, reduced)


def default_group(rank, group):
    """In the pool's whole world ``group=None`` must mean the default group."""
    return world(None)[1], sum_over(torch.ones(()), None).item()


def test_no_group_means_the_default_group():
    assert gloo.run(4, default_group) == [(4, 4.0)] * 4
    assert world(None) == (0, 1)


def broken(rank, group):
    if rank == 1:
        raise ValueError("rank one is ill")
    return rank


def test_pool_reports_a_failing_process():
    with pytest.raises(RuntimeError, match="rank one is ill"):
        gloo.run(2, broken)
    assert len(gloo.run(2, gathered)) == 2
