"""Features kept by content: of a picture by its file's bytes (and box), of a text by itself, so that no benchmark makes them twice.

A store is a folder; in it one folder for each model and what is needed of it, named by a hash of the weights, and in that a file for
each call that made new features. Two benchmarks over the same photos share them, and so do two versions of one benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal, NotRequired

import torch

from wholegrain.evaluation.contract import EvaluatedModel, PixelSource
from wholegrain.evaluation.features.encode import Progress, default_needs, encode_distinct, encode_keys
from wholegrain.evaluation.features.sharing import all_gather, is_main_process
from wholegrain.features import FeatureRows, Features, ImageFeatures, TextFeatures, join
from wholegrain.files import digest
from wholegrain.towers.feature_files import FeatureFacts, read_facts, read_features, write_features
from wholegrain.towers.identity import model_digest
from wholegrain.towers.tensor_files import read_tensors

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
        self, model: EvaluatedModel, folder: str | Path | None = None, *, batch: int = 64, needs: frozenset[str] | None = None
    ) -> None:
        self.model, self.batch, self.needs = model, batch, default_needs(model) if needs is None else needs
        self.folder = None if folder is None else Path(folder) / digest([model_digest(model), sorted(self.needs)])[:32]

    def images(self, pictures: PixelSource, keys: Sequence[str], progress: Progress | None = None) -> ImageFeatures:
        """Features of the distinct ``keys``, in that order; ``pictures.pixels(key)`` gives what must be encoded."""
        known = self._known("images", keys)
        fresh = [key for key in keys if key not in known]
        parts = self._read(known, ImageFeatures)
        if fresh:
            made = encode_keys(self.model, pictures, fresh, self.needs, batch=self.batch, progress=progress)
            self._write("images", fresh, made, {})
            parts.append((fresh, made))
        return _ordered(parts, keys)

    def texts(self, texts: Sequence[str], progress: Progress | None = None) -> tuple[TextFeatures, list[bool]]:
        """Features of the distinct ``texts``, in that order, and which of them were cut at the model's context."""
        known = self._known("texts", texts)
        fresh = [text for text in texts if text not in known]
        parts = self._read(known, TextFeatures)
        cut = {text: bool(known[text][1].get("cut", {}).get(text, False)) for text in known}
        if fresh:
            made, cut_N = encode_distinct(self.model, fresh, self.needs, batch=4 * self.batch, progress=progress)
            here = {text: True for text, was in zip(fresh, cut_N.tolist(), strict=True) if was}
            self._write("texts", fresh, made, {"cut": here})
            cut |= {text: text in here for text in fresh}
            parts.append((fresh, made))
        return _ordered(parts, texts), [cut[text] for text in texts]

    def _known(self, side: Side, names: Sequence[str]) -> dict[str, tuple[Path, _Facts]]:
        """name -> the file that holds its features, and what the file says of itself; the same in all processes that share."""
        wanted, found = set(names), {}
        for path in sorted(self.folder.glob(f"{side}-*.safetensors")) if self.folder is not None else []:
            facts = _facts(path, ImageFeatures if side == "images" else TextFeatures)
            here = [name for name in facts["names"] if name in wanted and name not in found] if facts is not None else []
            if here and read_features(path) is not None:
                found |= dict.fromkeys(here, (path, facts))
        everywhere = set.intersection(*(set(names) for names in all_gather(list(found))))
        return {name: place for name, place in found.items() if name in everywhere}

    def _read(self, known: Mapping[str, tuple[Path, _Facts]], kind: type[Features]) -> list[tuple[list[str], Features]]:
        by_file: dict[Path, list[str]] = {}
        for name, (path, _) in known.items():
            by_file.setdefault(path, []).append(name)
        parts = []
        for path, names in by_file.items():
            facts = known[names[0]][1]
            place = {name: n for n, name in enumerate(facts["names"])}
            parts.append((names, _load(path, facts, kind).select(torch.tensor([place[name] for name in names]))))
        return parts

    def _write(self, side: Side, names: Sequence[str], made: ImageFeatures | TextFeatures, facts: Mapping[str, object]) -> None:
        if self.folder is None or not is_main_process():
            return
        tensors = made.tensors() | {f"learned.{n}": v for n, v in getattr(made, "learned", {}).items()}
        facts = {"names": list(names), "grid": getattr(made, "grid", None), **facts}
        write_features(self.folder / f"{side}-{digest(list(names))[:24]}.safetensors", tensors, facts)


class _Facts(FeatureFacts):
    """What a file holds features of, how patches lie, and which texts were cut."""

    names: list[str]
    grid: NotRequired[tuple[int, int] | None]
    cut: NotRequired[dict[str, bool]]


def _facts(path: Path, kind: type[FeatureRows]) -> _Facts | None:
    """Of a file whose tensors are what it says; ``None`` for any other, damaged or being replaced."""
    found = read_facts(path, _Facts)
    if found is None:
        return None
    facts, header = found
    known = {field.name for field in fields(kind)}
    rows = {name: shape for name, shape in header.shapes.items() if not name.startswith("learned.")}
    fine = rows.keys() <= known and all(shape[:1] == (len(facts["names"]),) for shape in rows.values())
    return facts if fine and any(name.startswith("pooled") for name in rows) else None


def _load(path: Path, facts: _Facts, kind: type[Features]) -> Features:
    tensors = read_tensors(path, "delete it")
    made = kind(**{name: value for name, value in tensors.items() if not name.startswith("learned.")})
    if kind is not ImageFeatures:
        return made
    learned = {name.removeprefix("learned."): v for name, v in tensors.items() if name.startswith("learned.")}
    return replace(made, learned=learned, grid=facts.get("grid") or None)


def _ordered(parts: Sequence[tuple[list[str], Features]], names: Sequence[str]) -> Features:
    together = join([features for _, features in parts]) if len(parts) > 1 else parts[0][1]
    place = {name: n for n, name in enumerate(name for names_here, _ in parts for name in names_here)}
    return together if list(place) == list(names) else together.select(torch.tensor([place[name] for name in names]))
