"""Sources of image-text data: one file a kind, all yielding :class:`RawSample` through :func:`open_source`.

========================  =============================================================================================
``photos.csv``, ``.tsv``  a table with a header; several rows of one photo are several captions
``photos.jsonl``          one object an image, ``caption`` or ``captions``
``folder/``               images with text files beside them, or in one sub-folder a class
``name-{00..09}.tar``     WebDataset shards, or a folder of them, or a prepared data set
``data.parquet``          or a folder of them; images as bytes or paths
``hf:NAME[:split]``       Hugging Face datasets, by name or as a saved folder
========================  =============================================================================================
"""

from __future__ import annotations

import os
from pathlib import Path

from wholegrain.data.sources.sample import Member, RawSample, Source, SourceOptions
from wholegrain.errors import UserError
from wholegrain.files import open_file, shown

__all__ = ["Member", "RawSample", "Source", "SourceOptions", "open_source"]


def open_source(spec: str | Path, options: SourceOptions = SourceOptions()) -> Source:
    """Opens whatever ``spec`` names, and checks its columns.

    Raises:
        UserError: there is nothing there, it is of no kind that can be read, or a column is missing.

    Example::

        for sample in open_source("photos.csv"):
            print(sample.where, sample.captions)
    """
    text = str(spec)
    if text.startswith("hf:"):
        from wholegrain.data.sources.huggingface import HuggingFaceSource

        return HuggingFaceSource(text[3:], options)
    from wholegrain.data.sources.webdataset import WebDatasetSource, expand

    path = Path(spec)
    if text.endswith((".tar", ".tar.gz", ".tgz")) and not path.is_dir():
        return WebDatasetSource(expand(text), options)
    if path.is_dir():
        return _open_folder(path, options)
    os.close(open_file(path, "give a table, a folder, tar shards or hf:NAME"))
    return _open_file(path, options)


def _open_file(path: Path, options: SourceOptions) -> Source:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        from wholegrain.data.sources.table import TableSource

        return TableSource(path, options)
    if suffix in (".jsonl", ".ndjson"):
        from wholegrain.data.sources.jsonl import JsonlSource

        return JsonlSource(path, options)
    if suffix in (".parquet", ".pq"):
        from wholegrain.data.sources.parquet import ParquetSource

        return ParquetSource([path], options)
    raise UserError(f"{shown(path)} is of no kind that can be read; give .csv, .tsv, .jsonl, .parquet, .tar, a folder or hf:NAME")


def _open_folder(path: Path, options: SourceOptions) -> Source:
    from wholegrain.data.sources.folder import FolderSource
    from wholegrain.data.sources.parquet import ParquetSource
    from wholegrain.data.sources.webdataset import WebDatasetSource

    tars = sorted((path / "shards" if (path / "manifest.json").exists() else path).glob("*.tar"))
    if tars:
        return WebDatasetSource(tars, options)
    tables = sorted(path.glob("*.parquet"))
    if tables:
        return ParquetSource(tables, options)
    if any((path / mark).exists() for mark in ("dataset_dict.json", "state.json")):
        raise UserError(f"{shown(path)} is a saved Hugging Face data set; name it as hf:{path}")
    return FolderSource(path, options)
