"""Files of vectors: what was added comes back, in order, however many batches it came in."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from wholegrain.errors import UserError
from wholegrain.workflows.vector_files import FORMATS, names_beside, vector_file

ROWS = np.random.default_rng(0).standard_normal((20_000, 3)).astype(np.float32)
NAMES = [f"é {n}" for n in range(len(ROWS))]


def read(path):
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return table["name"].to_pylist(), np.array(table["vector"].to_pylist(), np.float32)
    if path.suffix == ".npy":
        return json.loads(names_beside(path).read_text(encoding="utf-8"))["names"], np.load(path)
    if path.suffix == ".csv":  # as lightly.utils.io.load_embeddings reads it
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["filenames", "embedding_0", "embedding_1", "embedding_2", "labels"]
        assert {row[-1] for row in rows} <= {"0"}
        return [row[0] for row in rows], np.array([row[1:-1] for row in rows], np.float32)
    return None, load_file(path)["vectors"]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("batch", [999, 20_000])
def test_what_was_added_comes_back(tmp_path, suffix, batch):
    path = tmp_path / "new" / f"x{suffix}"
    with vector_file(path, 3, {"model": "any"}) as file:
        for start in range(0, len(ROWS), batch):
            file.add(NAMES[start : start + batch], ROWS[start : start + batch])
    names, vectors = read(path)
    assert names in (NAMES, None)
    np.testing.assert_array_equal(vectors, ROWS)
    assert file.rows == len(ROWS)


@pytest.mark.parametrize("suffix", FORMATS)
def test_nothing_is_a_file_without_rows_and_a_failure_is_none(tmp_path, suffix):
    with vector_file(tmp_path / f"empty{suffix}", 3, {}):
        pass
    assert read(tmp_path / f"empty{suffix}")[1].size == 0

    def fail():
        with vector_file(tmp_path / f"x{suffix}", 3, {}) as file:
            file.add(NAMES[:2], ROWS[:2])
            raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
        fail()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "x"))]


def test_lightly_reads_its_csv(tmp_path):
    reader = pytest.importorskip("lightly.utils.io")
    with vector_file(tmp_path / "x.csv", 3, {}) as file:
        file.add(NAMES[:5], ROWS[:5])
    reader.check_embeddings(str(tmp_path / "x.csv"))
    vectors, labels, names = reader.load_embeddings(str(tmp_path / "x.csv"))
    np.testing.assert_array_equal(vectors.astype(np.float32), ROWS[:5])
    assert (labels, names) == ([0] * 5, NAMES[:5])
