"""Which of torch's kernels computes attention: on a CPU in bf16 the one of separate products, whose backward pass is several times faster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

MOST_TOKENS = 256
"""Longer sequences keep the fused kernel: separate products hold a table of tokens x tokens for every head until the backward pass."""


def attention_kernel(device: torch.device, tokens: int) -> AbstractContextManager[object]:
    """A context for ``scaled_dot_product_attention`` over sequences of ``tokens``; it changes results by rounding alone.

    The fused kernel's backward pass on CPUs takes several times as long in bf16 as in fp32; separate products (softmax in fp32) do not
    (``python -m benchmarks.scenes_step`` measures what a step gains).
    """
    bf16 = device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return sdpa_kernel(SDPBackend.MATH) if bf16 and tokens <= MOST_TOKENS and torch.is_grad_enabled() else nullcontext()
