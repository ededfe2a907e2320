"""Do numbers stay numbers? Low precision, autocast, and inputs at the edge."""

from __future__ import annotations

from dataclasses import replace

import torch

from wholegrain.verify.cases import Batch, as_type, lone_pair, make_batch, without_texts
from wholegrain.verify.differences import Differences
from wholegrain.verify.subject import LossUnderTest


def precision(subject: LossUnderTest, differences: Differences) -> None:
    """bf16 and fp16 inputs, with autocast, against float64 on the same rounded inputs."""
    usual = make_batch(9)
    long = {name: 200 * x for name, x in usual.leaves().items() if name.endswith("D") and "learned." not in name}
    for said, batch, dtype, autocast in (
        ("bf16 inputs", usual, torch.bfloat16, False),
        ("bf16 inputs under autocast", usual, torch.bfloat16, True),
        ("float32 inputs under bf16 autocast", usual, torch.float32, True),
        ("fp16 inputs of length 500", usual.with_leaves(long), torch.float16, False),
    ):
        differences.case, rounded = said, as_type(batch, dtype)
        exact = subject.evaluate(as_type(rounded, torch.float64))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            result = subject.evaluate(rounded)
        differences.require(result.value.dtype == torch.float32, f"the value is {result.value.dtype}, not float32")
        differences.compare("value", result.value, exact.value)
        for name, grad in result.grads.items():
            differences.finite(f"gradient of {name}", grad)


def edge_batches() -> dict[str, Batch]:
    """Inputs at the edge, in float32."""
    usual = as_type(make_batch(3), torch.float32)
    owner = usual.pairing.owner_N
    pairing = usual.pairing
    copies = replace(pairing, text_id_N=pairing.text_id_N * 0, image_id_B=pairing.image_id_B * 0)
    own = usual.image.pooled_BD[owner]
    zero_row = usual.map(lambda x: x * (torch.arange(len(x)) > 0).view(-1, *[1] * (x.ndim - 1)))
    return {
        "one pair": lone_pair(usual),
        "constant inputs": usual.map(lambda x: torch.full_like(x, 0.3)),
        "zero vectors": usual.map(torch.zeros_like),
        "one image and one text of zeros": zero_row,
        "very long vectors": usual.map(lambda x: torch.full_like(x, 3e4)),
        "very short vectors": usual.map(lambda x: 1e-20 * x),
        "texts opposite to their images": usual.with_leaves({"pooled_ND": -own}),
        "texts equal to their images": usual.with_leaves({"pooled_ND": own}),
        "everything a copy": replace(usual, pairing=copies),
        "no texts": without_texts(usual),
    }


def edges(subject: LossUnderTest, differences: Differences) -> None:
    """Finite value, gradients and state in float32 at scale 100."""
    for said, batch in edge_batches().items():
        differences.case = f"{said}, scale 100"
        result = subject.evaluate(batch, scale=100.0, bias=-10.0)
        differences.finite("value", result.value)
        for name, grad in result.grads.items():
            differences.finite(f"gradient of {name}", grad)
        for name, x in (result.state or {}).items():
            differences.finite(f"state {name}", x)
