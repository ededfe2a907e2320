"""The commands embed, classify and explain: what they write, what they leave out, what they refuse before any work."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from house_models import small
from PIL import Image
from safetensors import safe_open

from wholegrain.cli import main as cli
from wholegrain.data.listing import pictures_in
from wholegrain.towers import save_model
from wholegrain.workflows.embedder import load


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A model, a folder of five pictures of which one is broken, and files of texts."""
    save_model(small(), tmp_path / "model")
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for n in range(4):
        pixels = np.random.default_rng(n).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / ("more" if n == 3 else "") / f"{n}.png")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff none")
    (tmp_path / "texts.txt").write_text("a red cup\n\na blue hat\n")
    (tmp_path / "texts.csv").write_text('id,caption\n1,"a cup, red"\n2,a hat\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capfd, *words, code=0):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words])
    said = capfd.readouterr()
    assert stop.value.code == code, said
    return said


NAMES = ["0.png", "1.png", "2.png", "more/3.png"]


def test_vectors_of_a_folder_in_every_format(place, capfd):
    embedder = load("model")
    expected = embedder.embed_images([path for path in pictures_in("photos") if path.name != "broken.jpg"])
    for name in ("x.parquet", "x.npy", "x.safetensors"):
        said = run(capfd, "embed", "model", "photos", "--out", name, "--batch", "2")
        assert "broken.jpg cannot be decoded" in said.err
        assert f"written: {name} (4 pictures, 16 numbers each" in said.out
        assert "next: " in said.out
    table = pq.read_table("x.parquet")
    assert table["name"].to_pylist() == NAMES
    np.testing.assert_allclose(np.stack(table["vector"].to_numpy()), expected, atol=1e-5)
    assert json.loads(table.schema.metadata[b"wholegrain"])["model"] == "model"
    np.testing.assert_allclose(np.load("x.npy"), expected, atol=1e-5)
    assert json.loads((place / "x.npy.names.json").read_text())["names"] == NAMES
    with safe_open("x.safetensors", "numpy") as file:
        np.testing.assert_allclose(file.get_tensor("vectors"), expected, atol=1e-5)
        assert json.loads(file.metadata()["names"]) == NAMES


def test_vectors_of_texts_and_of_named_pictures(place, capfd):
    embedder = load("model")
    run(capfd, "embed", "model", "texts.txt", "--out", "t.npy")
    np.testing.assert_allclose(np.load("t.npy"), embedder.embed_texts(["a red cup", "a blue hat"]), atol=1e-5)
    run(capfd, "embed", "model", "texts.csv", "--out", "t.npy")
    assert json.loads((place / "t.npy.names.json").read_text())["names"] == ["a cup, red", "a hat"]
    run(capfd, "embed", "model", "photos/2.png", "photos/0.png", "--out", "p.npy", "--raw")
    np.testing.assert_allclose(np.load("p.npy"), embedder.embed_images(["photos/2.png", "photos/0.png"], normalize=False), atol=1e-4)
    (place / "long.txt").write_text("a red cup left of a blue hat " * 9)
    assert "1 of 1 texts are longer" in run(capfd, "embed", "model", "long.txt", "--out", "t.npy").err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["embed", "model", "photos", "--out", "x.xlsx"], "ends in none of .parquet"),
        (["embed", "model", "photos/broken.jpg", "--out", "x.npy"], "None of the 1 pictures"),
        (["embed", "model", "nothing", "--out", "x.npy"], "nothing does not exist"),
        (["embed", "model", "nothing.txt", "--out", "x.npy"], "nothing.txt is not there"),
        (["embed", "model", "photos", "photos/0.png", "--out", "x.npy"], "is no picture by its name"),
        (["embed", "model", "texts.csv", "--out", "x.npy", "--column", "captoin"], "did you mean"),
        (["embed", "nothing", "photos", "--out", "new/x.npy"], "no model"),
        (["embed", "model", "photos", "--out", "x.npy", "--batch", "0"], "at least 1"),
        (["classify", "model", "photos"], "--labels"),
        (["classify", "model", "photos", "--labels", "cup"], "two or more"),
        (["classify", "model", "photos", "--labels", "cup,hat", "--out", "x.xlsx"], "ends in .csv"),
        (["classify", "model", "photos", "--labels", "cup,hat", "--abstain-below", "2"], "probability"),
        (["explain", "model", "photos/0.png", "..."], "no words"),
        (["explain", "model", "photos/broken.jpg", "a cup"], "cannot be decoded"),
        (["explain", "model", "photos/0.png", "a cup", "--out", "x.jpg"], "does not end in .png"),
        (["explain", "model", "photos/0.png", "a cup", "--read-outs", "h_v"], "h_v"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_writes_nothing(place, capfd, words, why):
    before = sorted(place.rglob("*"))
    said = run(capfd, *words, code=2)
    assert why in said.err
    assert said.err.rstrip().splitlines()[-1].startswith("wholegrain: ")
    assert sorted(place.rglob("*")) == before


def test_classify_prints_a_table_and_writes_all_probabilities(place, capfd):
    said = run(capfd, "classify", "model", "photos", "--labels", "red cup, blue hat,hat", "--out", "l.csv")
    assert "4 pictures: " in said.out
    assert "written: l.csv" in said.out
    assert "broken.jpg cannot be decoded" in said.err
    with open("l.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found, probability = load("model").classify([f"photos/{name}" for name in NAMES], ["red cup", "blue hat", "hat"])
    assert [row["picture"] for row in rows] == NAMES
    assert [row["label"] for row in rows] == found
    np.testing.assert_allclose([[float(row[f"p({c})"]) for c in ("red cup", "blue hat", "hat")] for row in rows], probability, atol=1e-5)
    (place / "labels.txt").write_text("red cup\nblue hat\nhat\n")
    said = run(capfd, "classify", "model", "photos", "--labels-file", "labels.txt", "--abstain-below", "1")
    assert "4 pictures: 4 none" in said.out


def test_explain_writes_a_picture_and_a_page(place, capfd):
    said = run(capfd, "explain", "model", "photos/0.png", "a red cup")
    assert "written: why.png" in said.out
    assert "left out: h_v" in said.err
    assert Image.open("why.png").size[0] > 400
    (place / "why.png").unlink()
    said = run(capfd, "explain", "model", "photos/0.png", "a red cup", "--html", "why.html", "--read-outs", "pooled", "token")
    assert "3 words and 1 phrase by pooled, token" in said.out
    assert not (place / "why.png").exists()
    assert "“a red cup”" in (place / "why.html").read_text()
