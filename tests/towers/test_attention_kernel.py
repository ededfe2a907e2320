"""Attention in bf16 on a processor: by separate products where sequences are short, which changes results by rounding alone."""

import pytest
import torch
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention

from wholegrain.towers import attention_kernel as module
from wholegrain.towers.attention_kernel import MOST_TOKENS, attention_kernel

CPU = torch.device("cpu")


@pytest.fixture
def chosen(monkeypatch):
    found = []
    real = module.sdpa_kernel
    monkeypatch.setattr(module, "sdpa_kernel", lambda backend: found.append(backend) or real(backend))
    return found


@pytest.mark.parametrize(
    ("dtype", "tokens", "grad", "separate"),
    [
        (torch.bfloat16, MOST_TOKENS, True, True),
        (torch.bfloat16, MOST_TOKENS + 1, True, False),  # its table would be kept for the backward pass
        (torch.bfloat16, 64, False, False),  # the fused forward pass is as fast
        (None, 64, True, False),
    ],
)
def test_only_short_sequences_that_train_in_bf16_go_by_separate_products(chosen, dtype, tokens, grad, separate):
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None), torch.set_grad_enabled(grad), attention_kernel(CPU, tokens):
        pass
    assert chosen == ([SDPBackend.MATH] if separate else [])


def test_results_and_gradients_are_the_same_to_rounding():
    torch.manual_seed(0)
    inputs = [torch.randn(2, 2, 9, 8, requires_grad=True) for _ in range(3)]
    mask = torch.zeros(9, 9).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
    exact = scaled_dot_product_attention(*inputs, attn_mask=mask)
    wanted = torch.autograd.grad(exact.square().sum(), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16), attention_kernel(CPU, 9):
        found = scaled_dot_product_attention(*(x.bfloat16() for x in inputs), attn_mask=mask.bfloat16())
    got = torch.autograd.grad(found.float().square().sum(), inputs)
    torch.testing.assert_close(found.float(), exact, atol=0.03, rtol=0.03)
    for one, other in zip(got, wanted, strict=True):
        assert torch.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.999
