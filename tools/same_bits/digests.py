"""Digests of files by what they say: names and bytes of tensors, rows of tables, values of JSON; other files by their bytes."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

LEFT_OUT = {
    "*.lock": "empty; says who is at work",
    "*tensorboard/*": "times, and the machine's name in the file's; the same figures as metrics.jsonl",
    "*.html": "a page is made of figures that are recorded, and restyling is no change of bits",
    "README.md": "a model card: prose, versions, the command",
    "*.log": "what this tool keeps of a command's output",
}
"""Files that are not recorded, and why."""
KEYS_LEFT_OUT: dict[str, dict[str, str]] = {
    "manifest.json": {"wholegrain": "a version", "identity": "times and places of the source's files"},
    "config.json": {"transformers_version": "a version"},
    "run.json": {
        "command": "prose of the command line",
        "data": "a path",
        "manifest_hash": "of a manifest with its version, times and places; the manifest is recorded with the data",
        "machine": "a name of the machine",
        "python": "a version",
        "versions": "versions",
    },
    "metrics.jsonl": {
        "images_per_s": "a time",
        "texts_per_s": "a time",
        "data_wait": "a time",
        "peak_share": "a time",
        "memory_mb": "whatever the process had before",
    },
}
"""Keys that are not recorded, by the name of their file, and why."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def of_folder(folder: Path, out: str) -> dict[str, str]:
    """Path -> digest, of the file ``out``, or of all files in the folder ``out`` but :data:`LEFT_OUT`."""
    if (folder / out).is_file():
        return {out: of_file(folder / out)}
    found: dict[str, str] = {}
    for path in sorted(path for path in (folder / out).rglob("*") if path.is_file()):
        name = path.relative_to(folder / out).as_posix()
        if path.name == "results.json":
            found |= {f"{name}/{task}": digest for task, digest in of_results(path).items()}
        elif not any(fnmatch(name, pattern) for pattern in LEFT_OUT):
            found[name] = of_file(path)
    return found


def of_results(path: Path) -> dict[str, str]:
    """Task -> digest of all its figures; "meta" is left out: it has names, settings, and digests that are recorded elsewhere."""
    return {row["task"]: of_json(row) for row in json.loads(path.read_text())["results"]}


def of_file(path: Path) -> str:
    """The digest of one file by its kind; behind it, for losses, the last one, so that one sees how far off another is."""
    if path.suffix == ".safetensors":
        return of_tensors(path)
    if path.suffix == ".parquet":
        return of_table(path)
    if path.suffix == ".onnx":
        return of_graph(path)
    if path.suffix == ".json":
        return of_json(json.loads(path.read_text()), KEYS_LEFT_OUT.get(path.name, {}))
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        last = [line["loss"] for line in lines if "loss" in line][-1:]
        return of_json(lines, KEYS_LEFT_OUT[path.name]) + "".join(f" loss {loss!r}" for loss in last)
    return sha256(path.read_bytes())


def of_json(value: Any, left_out: Mapping[str, str] = {}) -> str:
    """Of the values, whatever the order of keys and the spaces; ``left_out`` are keys of the outermost object, or of each of a list."""
    if isinstance(value, list):
        value = [{k: v for k, v in row.items() if k not in left_out} if isinstance(row, dict) else row for row in value]
    elif isinstance(value, dict):
        value = {k: v for k, v in value.items() if k not in left_out}
    return sha256(json.dumps(value, sort_keys=True).encode())


def of_tensors(path: Path) -> str:
    """Of (name, dtype, shape, bytes) of a safetensors file, sorted by name; its free metadata may name versions and are left out."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    found = hashlib.sha256()
    for name, about in sorted(header.items()):
        start, end = (8 + size + offset for offset in about["data_offsets"])
        found.update(json.dumps([name, about["dtype"], about["shape"]]).encode())
        found.update(data[start:end])
    return found.hexdigest()


def of_table(path: Path) -> str:
    """Of the schema's names and types and the sorted rows of a parquet file."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    schema = sorted(f"{field.name}: {field.type}" for field in table.schema)
    rows = sorted(json.dumps(row, sort_keys=True, default=_plain) for row in table.to_pylist())
    return sha256("\n".join([*schema, *rows]).encode())


def of_graph(path: Path) -> str:
    """Of an ONNX file but for what its nodes say of the Python code that they come from: modules, files and lines."""
    import onnx

    model = onnx.load(path)
    _without_origins(model)
    return sha256(model.SerializeToString(deterministic=True))


def _without_origins(message: Any) -> None:
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string", "producer_version"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for one in [value] if hasattr(value, "ListFields") else value:
                _without_origins(one)


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)
