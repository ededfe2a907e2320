"""Hugging Face ``datasets``: ``hf:NAME`` (hub or cache) or ``hf:FOLDER`` (``save_to_disk``), with ``:split`` behind either."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from wholegrain.data.network import hub_or_cache, no_network, unfetched
from wholegrain.data.sources.columns import Columns
from wholegrain.data.sources.parquet import sample_of
from wholegrain.data.sources.sample import InsideFolder, RawSample, SourceOptions
from wholegrain.errors import UserError
from wholegrain.suggest import closest

if TYPE_CHECKING:
    from datasets import Dataset


class HuggingFaceSource:
    """Images are taken as the stored bytes, never decoded and encoded again. Without ``:split`` all splits are read, by name.

    A single one that is called ``train`` states nothing: the library calls so whatever has no splits.
    """

    def __init__(self, spec: str, options: SourceOptions) -> None:
        try:
            import datasets
        except ImportError:
            raise UserError(
                "reading hf: sources needs the package datasets; install it with: pip install 'wholegrain[hf]'"
            ) from None
        name, split = spec, ""
        if not Path(spec).exists() and ":" in spec:
            name, _, split = spec.rpartition(":")
        parts = _load(datasets, name, split)
        self.name, self.options = name, options
        self.parts = {part: _undecoded(datasets, table) for part, table in parts.items()}
        self.columns = {part: Columns.find(t.column_names, options, f"hf:{name}:{part}".rstrip(":")) for part, t in self.parts.items()}
        self.inside = InsideFolder.of(Path(name) if Path(name).exists() else Path.cwd(), options, ())

    def __iter__(self) -> Iterator[RawSample]:
        for part, table in self.parts.items():
            columns = self.columns[part]
            name_of = getattr(table.features.get(columns.label), "int2str", str)
            for number, row in enumerate(table):
                row = dict(row)
                if not columns.split:
                    row["split"] = part or self.options.split
                yield sample_of(
                    row,
                    replace(columns, split=columns.split or "split"),
                    self.inside,
                    f"hf:{self.name}",
                    f"hf:{self.name}:{part}".rstrip(":") + f", row {number}",
                    name_of,
                )

    def fingerprint(self) -> list[str]:
        return [f"{part} {getattr(table, '_fingerprint', '')} {len(table)}" for part, table in self.parts.items()]


def _load(datasets: ModuleType, name: str, split: str) -> dict[str, Dataset]:
    folder, reached = Path(name), True
    try:
        saved = any((folder / mark).exists() for mark in ("dataset_dict.json", "state.json", "dataset_info.json"))
        if saved or folder.exists():
            loaded = datasets.load_from_disk(name) if saved else datasets.load_dataset(name)
        else:
            with hub_or_cache() as reached:
                loaded = datasets.load_dataset(name)
    except Exception as error:  # the library raises a dozen kinds for names, networks and files
        if not reached and unfetched(error):
            cached = str(datasets.config.HF_DATASETS_CACHE)
            instead = "give hf:FOLDER (save_to_disk), another source, or fetch it into the cache first"
            raise no_network(f"hf:{name}", cached, instead) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"hf:{name} cannot be loaded ({reason}); check the name, the folder and the network") from error
    # A single table says where it came from; "train" is what the library calls a table that does not.
    parts = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
    if split and split not in parts:
        raise UserError(f"hf:{name} has no split {split!r}; {closest(split, parts)}")
    if not split and list(parts) == ["train"]:
        return {"": parts["train"]}
    return {split: parts[split]} if split else {_plain(part): table for part, table in parts.items()}


def _plain(part: str) -> str:
    return {"validation": "val"}.get(part, part)


def _undecoded(datasets: ModuleType, table: Dataset) -> Dataset:
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return table
