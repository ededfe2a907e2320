"""Features kept by content: of a picture by its file's bytes (and box), of a text by itself, so that no benchmark makes them twice.

A store is a folder; in it one folder for each model and what is needed of it, named by a hash of the weights, and in that a file for
each call that made new features. Two benchmarks over the same photos share them, and so do two versions of one benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from wholegrain.errors import MachineError, UserError
from wholegrain.evaluation.features.encode import Progress, default_needs, encode_distinct, encode_keys, join_features
from wholegrain.evaluation.features.sharing import alone_or_first, of_all
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.files import aside, digest, parse_json
from wholegrain.structure import StructureError
from wholegrain.towers.identity import model_digest
from wholegrain.towers.tensor_files import read_header, read_tensors, tensors_digest

Side = Literal["images", "texts"]


class FeatureStore:
    """Encodes what is not there yet.

    Args:
        model: the model.
        folder: where features are kept; ``None`` keeps nothing.
        batch: pictures at a time; texts take four times as many.
        needs: what the towers must return beside the pooled vectors; ``None`` for what scoring alone needs.
    """

    def __init__(
        self, model: Any, folder: str | Path | None = None, *, batch: int = 64, needs: frozenset[str] | None = None
    ) -> None:
        self.model, self.batch, self.needs = model, batch, default_needs(model) if needs is None else needs
        self.folder = None if folder is None else Path(folder) / _model_folder(model, self.needs)

    def images(self, pictures: Any, keys: Sequence[str], progress: Progress | None = None) -> ImageFeatures:
        """Features of the distinct ``keys``, in that order; ``pictures.pixels(key)`` gives what must be encoded."""
        known = self._known("images", keys)
        fresh = [key for key in keys if key not in known]
        parts = self._read("images", known, ImageFeatures)
        if fresh:
            made = encode_keys(self.model, pictures, fresh, self.needs, batch=self.batch, progress=progress)
            self._write("images", fresh, made, {})
            parts.append((fresh, made))
        return _ordered(parts, keys, ImageFeatures)

    def texts(self, texts: Sequence[str], progress: Progress | None = None) -> tuple[TextFeatures, list[bool]]:
        """Features of the distinct ``texts``, in that order, and which of them were cut at the model's context."""
        known = self._known("texts", texts)
        fresh = [text for text in texts if text not in known]
        parts = self._read("texts", known, TextFeatures)
        cut = {text: bool(known[text][1].get("cut", {}).get(text, False)) for text in known}
        if fresh:
            made, cut_N = encode_distinct(self.model, fresh, self.needs, batch=4 * self.batch, progress=progress)
            here = {text: True for text, was in zip(fresh, cut_N.tolist(), strict=True) if was}
            self._write("texts", fresh, made, {"cut": here})
            cut |= {text: text in here for text in fresh}
            parts.append((fresh, made))
        return _ordered(parts, texts, TextFeatures), [cut[text] for text in texts]

    def _known(self, side: Side, names: Sequence[str]) -> dict[str, tuple[Path, dict[str, Any]]]:
        """name -> the file that holds its features, and what the file says of itself; the same in all processes that share."""
        wanted, found = set(names), {}
        for path in sorted(self.folder.glob(f"{side}-*.safetensors")) if self.folder is not None else []:
            facts = _facts(path, ImageFeatures if side == "images" else TextFeatures)
            here = [name for name in facts.get("names", ()) if name in wanted and name not in found]
            if here and facts.get("digest") in (None, tensors_digest(read_tensors(path, "delete it"))):
                found |= dict.fromkeys(here, (path, facts))
        everywhere = set.intersection(*(set(there) for there in of_all(list(found))))
        return {name: place for name, place in found.items() if name in everywhere}

    def _read(self, side: Side, known: dict[str, tuple[Path, dict[str, Any]]], kind: type) -> list[tuple[list[str], Any]]:
        by_file: dict[Path, list[str]] = {}
        for name, (path, _) in known.items():
            by_file.setdefault(path, []).append(name)
        parts = []
        for path, names in by_file.items():
            facts = known[names[0]][1]
            place = {name: n for n, name in enumerate(facts["names"])}
            parts.append((names, _load(path, facts, kind).select(torch.tensor([place[name] for name in names]))))
        return parts

    def _write(self, side: Side, names: Sequence[str], made: Any, facts: dict[str, Any]) -> None:
        if self.folder is None or not alone_or_first():
            return
        path = self.folder / f"{side}-{digest(list(names))[:24]}.safetensors"
        tensors = {n: v.contiguous() for n, v in sorted(vars(made).items()) if isinstance(v, Tensor)}
        tensors |= {f"learned.{n}": v.detach().contiguous() for n, v in getattr(made, "learned", {}).items()}
        facts = {"names": list(names), "grid": getattr(made, "grid", None), "digest": tensors_digest(tensors), **facts}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside(path) as part:
                save_file(tensors, part, {"facts": json.dumps(facts)})
        except (OSError, SafetensorError) as problem:
            raise MachineError(
                f"Features could not be kept in {path.parent} ({problem}); make room there, or leave out --cache."
            ) from problem


def _model_folder(model: Any, needs: frozenset[str]) -> str:
    return digest([model_digest(model), sorted(needs)])[:32]


class _Facts(TypedDict):
    """What a file says of itself: what it holds features of, how patches lie, which texts were cut, and a digest of its values."""

    names: list[str]
    grid: NotRequired[tuple[int, int] | None]
    cut: NotRequired[dict[str, bool]]
    digest: NotRequired[str]


def _facts(path: Path, kind: type) -> dict[str, Any]:
    """Of a file whose tensors are what it says; of any other, damaged or being replaced, nothing."""
    known = {f.name for f in fields(kind)}
    try:
        header = read_header(path, "delete it")
        facts = parse_json(header.metadata.get("facts", ""), _Facts)
    except (UserError, StructureError):
        return {}
    rows = {name: shape for name, shape in header.shapes.items() if not name.startswith("learned.")}
    fine = rows.keys() <= known and all(shape[:1] == (len(facts["names"]),) for shape in rows.values())
    return dict(facts) if fine and any(name.startswith("pooled") for name in rows) else {}


def _load(path: Path, facts: dict[str, Any], kind: type) -> Any:
    tensors: dict[str, Any] = dict(read_tensors(path, "delete it"))
    if kind is TextFeatures:
        return TextFeatures(**tensors)
    learned = {name.removeprefix("learned."): v for name, v in tensors.items() if name.startswith("learned.")}
    plain = {name: v for name, v in tensors.items() if not name.startswith("learned.")}
    return ImageFeatures(**plain, learned=learned, grid=tuple(facts["grid"]) if facts.get("grid") else None)


def _ordered(parts: list[tuple[list[str], Any]], names: Sequence[str], kind: type) -> Any:
    together = join_features([features for _, features in parts], kind) if len(parts) > 1 else parts[0][1]
    place = {name: n for n, name in enumerate(name for names_here, _ in parts for name in names_here)}
    return together if list(place) == list(names) else together.select(torch.tensor([place[name] for name in names]))
