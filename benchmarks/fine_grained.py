"""Time (of the best repeat) and memory of the fine-grained losses beside CLIP's, forward and backward, on features alone (no towers).

Captions have three phrases each: all different, or in the row "shared" out of 100.

python benchmarks/fine_grained.py --batch 256 --patches 49 --tokens 16 --width 256
"""

import argparse
import time

import torch

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.dreamlip import DreamlipLoss
from wholegrain.losses.filip import FilipLoss
from wholegrain.losses.flair import FlairLoss
from wholegrain.losses.gloria import GloriaLoss
from wholegrain.losses.llip import LlipLoss
from wholegrain.losses.mgca import MgcaLoss
from wholegrain.losses.mgca_prototypes import MgcaPrototypesLoss
from wholegrain.losses.sparc import SparcLoss
from wholegrain.losses.text_conditioned import TextConditionedLoss
from wholegrain.losses.whole_and_grain import WholeAndGrainLoss

LOSSES = {
    "clip": ClipLoss(),
    "sparc": SparcLoss(),
    "mgca": MgcaLoss(),
    "mgca_prototypes": MgcaPrototypesLoss(),
    "dreamlip": DreamlipLoss(),
    "flair": FlairLoss(),
    "text_conditioned (PACL)": TextConditionedLoss(),
    "whole_and_grain": WholeAndGrainLoss(),
    "whole_and_grain, shared": WholeAndGrainLoss(),
    "llip, 64 tokens": LlipLoss(),
    "filip": FilipLoss(),
    "filip, 25% kept": FilipLoss(keep=0.25),
    "gloria": GloriaLoss(),
    "gloria, variant sparc": GloriaLoss(variant="sparc"),
    "sparc, rivals images": SparcLoss(rivals="images"),
}


PHRASES, SHARED = 3, 100


def features(args, slots, device, shared=False):
    def normal(*shape):
        return torch.randn(*shape, device=device, requires_grad=True)

    B, P, L, D, heads = args.batch, args.patches, args.tokens, args.width, 8
    learned = {"mix_DA": normal(D, D), "mix_D": normal(D), "prototypes_KD": normal(500, D)}
    learned |= {"grain_log_weight_1": normal(1), "grain_log_temperature_1": normal(1)}
    slotted = {name: normal(B, heads, slots, D // heads) for name in ("keys_BGSE", "values_BGSE")}
    image = ImageFeatures(normal(B, D), patches_BPD=normal(B, P, D), grid=(1, P), learned=learned, **slotted)
    length = torch.randint(L // 2, L + 1, (B,), device=device)
    mask = torch.arange(L, device=device) < length[:, None]
    phrases = {"phrases_NKD": normal(B, PHRASES, D), "phrase_weight_NK": torch.full((B, PHRASES), 1 / PHRASES, device=device)}
    if shared:
        phrases["phrase_id_NK"] = torch.randint(SHARED, (B, PHRASES), device=device)
    return image, TextFeatures(normal(B, D), normal(B, L, D), mask, normal(B, heads, D // heads), **phrases)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 256), ("patches", 49), ("tokens", 16), ("width", 256), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time  # the second is fair on a shared CPU
    print(f"{device} {torch.cuda.get_device_name() if device.type == 'cuda' else ''} {args}")
    for name, loss in LOSSES.items():
        torch.manual_seed(0)
        image, text = features(args, 64 if name.startswith("llip") else args.patches + 1, device, name.endswith("shared"))
        pairing = Pairing.one_to_one(args.batch, device)
        scale, bias = torch.tensor(14.0, device=device, requires_grad=True), torch.tensor(-10.0, device=device)
        state = {k: v.to(device) for k, v in loss.initial_state(()).items()} if hasattr(loss, "initial_state") else None
        times, base = [], torch.cuda.memory_allocated() if device.type == "cuda" else 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(args.repeats):
            start = clock()
            value = loss(image, text, pairing, scale, bias, state).value
            value.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(clock() - start)
        peak = f"{(torch.cuda.max_memory_allocated() - base) / 2**20:9.0f} MiB" if device.type == "cuda" else ""
        print(f"{name:26} {1000 * min(times):9.1f} ms {peak}   loss {value.item():.3f}", flush=True)


if __name__ == "__main__":
    main()
