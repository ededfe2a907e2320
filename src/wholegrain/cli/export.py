"""``wholegrain export``: a model for open_clip, transformers, onnxruntime or the Hub."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """The words and options of ``wholegrain export``.

    Attributes:
        model: as in "train --model", such as a run.
        out: a new folder; may be left out with --push.
        to: open_clip, transformers, onnx, optimum (ONNX for optimum, transformers.js), peft (LoRA of a run), or wholegrain for all that a model here can have.
        grain: of a model with a plain head: what it shall score by, whole and grain, as 1 or 1:0.1 (weight, and temperature).
        approximate: where open_clip, transformers, optimum or peft cannot hold the model, export the nearest ordinary CLIP and measure what it loses.
        int8: with --to onnx: also image.int8.onnx and text.int8.onnx, with int8 weights.
        data: a prepared data set to measure on what either of them loses (retrieval).
        split: of the data set.
        results: a folder of "evaluate --out", for the card.
        push: org/name on the Hugging Face Hub.
        private: for a repository that is made now.
    """

    model: Positional[str]
    out: Positional[Path | None] = None
    to: Literal["open_clip", "transformers", "onnx", "optimum", "peft", "wholegrain"]
    grain: str = ""
    approximate: bool = False
    int8: bool = False
    data: Path | None = None
    split: str = "test"
    results: Path | None = None
    push: str = ""
    private: bool = False


def export(args: ExportArguments) -> int:
    """Writes a model for other libraries, reads it back with theirs, and says how far apart both are; with a model card.

    wholegrain export runs/latest models/mine --to transformers

    What a format has no place for is refused, naming the part.
    """
    from wholegrain.progress import showing
    from wholegrain.towers.export.card import READ_WITH
    from wholegrain.workflows.export import ExportOptions
    from wholegrain.workflows.export import export as run

    with showing() as show:
        show(f"writing for {args.to}, reading back and comparing{', measuring' if args.data else ''}")
        result = run(ExportOptions(**vars(args)))
    if result.approximation:
        where = "on the data's pictures" if args.data is not None else "on pictures of noise; --data measures retrieval"
        print(f"exported is an approximation: {result.approximation}")
        print(f"mean cosine of its image vectors with the model's own: {result.agreement:.4f} ({where})")
    if result.adapters:
        print(f"adapters: {result.adapters}")
    if result.int8 is not None:
        image, text = result.int8
        print(f"int8: mean cosine of vectors with the exact ones: {image:.4f} of pictures of noise, {text:.4f} of sentences")
        if args.data is None:
            print("what that costs is not measured; --data measures retrieval")
    for name, (exact, ours) in result.recalls.items():
        print(f"  {name:26}  exact {exact:6.1%}   {'int8' if result.int8 else 'exported'} {ours:6.1%}   {100 * (ours - exact):+.1f} points")
    print(f"read back with {READ_WITH.get(args.to, args.to)} and compared; largest difference as a share of the largest number:")
    for part, far in result.differences.items():
        print(f"  {part:16} {far:.1e}")
    for place in (result.folder, result.url):
        if place:
            print(place)
    if result.folder is not None:
        print(f"{_LOADED[args.to].format(folder=result.folder)} (README.md there says more)", file=sys.stderr)
    return 0


_LOADED = {
    "open_clip": "Load it with: open_clip.create_model_and_transforms('local-dir:{folder}')",
    "transformers": "Load it with: transformers.AutoModel.from_pretrained('{folder}')",
    "onnx": "Load it with onnxruntime, from {folder}",
    "optimum": "Load it with: optimum.onnxruntime.ORTModelForZeroShotImageClassification.from_pretrained('{folder}')",
    "peft": "Load it with: PeftModel.from_pretrained(AutoModel.from_pretrained('{folder}/base'), '{folder}')",
    "wholegrain": "Measure it with: wholegrain evaluate {folder} --data DATA",
}
