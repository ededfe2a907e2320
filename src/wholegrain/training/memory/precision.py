"""In which numbers a step computes: fp32, or 16 bits where that is safe (autocast), and what 16-bit gradients need beside."""

from __future__ import annotations

import torch
from torch.amp.grad_scaler import GradScaler

from wholegrain.errors import UserError

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(wanted: str, device: torch.device) -> str:
    """``fp32``, ``bf16`` or ``fp16``; ``auto`` takes bf16 where the machine has units for it: CUDA, or a CPU with AMX or AVX512-BF16.

    Raises:
        UserError: fp16 anywhere but on CUDA.
    """
    if wanted == "fp16" and device.type != "cuda":
        raise UserError(
            f'optimiser.precision is "fp16", which needs a CUDA device, and this run is on {device}; use bf16 or fp32.'
        )
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and processor_has_bf16() else "fp32"


def processor_has_bf16() -> bool:
    """Whether this machine's processor multiplies in bf16; not known, so no, before torch 2.8."""
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A fresh context: weights that it casts are kept until it ends, so one that ran without gradient must not be used again."""
    return torch.autocast(device.type, dtype=_HALF.get(precision, torch.bfloat16), enabled=precision in _HALF)


def make_scaler(device: torch.device, precision: str) -> GradScaler | None:
    """What keeps small gradients of fp16 above zero; ``None`` for other numbers, whose range is wide enough."""
    return GradScaler(device.type) if precision == "fp16" else None
