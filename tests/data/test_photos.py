"""Real photos through the real commands. Runs where WHOLEGRAIN_DATA names a folder that holds ``flickr8k/captions.csv`` (columns
``filepath,caption,split``, paths beside it) and ``weights/`` (MobileNetV2 and all-MiniLM-L6-v2, as in docs/photos.md); such photos
may not be published, so they are not part of this project."""

import csv
import json
import os
from pathlib import Path

import pytest

from wholegrain.cli import main as cli

FOLDER = Path(os.environ.get("WHOLEGRAIN_DATA", "nowhere"))
COUNTS = {"train": 140, "val": 20, "test": 40}
PAIR = """
[image]
timm = "mobilenetv2_100"
weights = "mobilenet_v2_imagenet.safetensors"
kwargs = { pad_type = "same" }
tune = "none"
[text]
hf = "all-MiniLM-L6-v2"
pool = "mean"
tune = "none"
[shared]
width = 128
[preprocess]
size = 96
resize = "squash"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (FOLDER / "flickr8k" / "captions.csv").exists(), reason="WHOLEGRAIN_DATA names no folder of photos"),
]


def command(*args):
    with pytest.raises(SystemExit) as caught:
        cli.main([str(arg) for arg in args])
    assert caught.value.code == 0, args


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of 200 photos with all their captions, and one file that is cut short."""
    source = FOLDER / "flickr8k"
    photos: dict[str, dict[str, list[str]]] = {split: {} for split in COUNTS}
    with (source / "captions.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            chosen = photos[row["split"]]
            if row["filepath"] in chosen or len(chosen) < COUNTS[row["split"]]:
                chosen.setdefault(row["filepath"], []).append(row["caption"])
    folder = tmp_path_factory.mktemp("photos")
    rows = [(str(source / name), text, split) for split, part in photos.items() for name, texts in part.items() for text in texts]
    whole = Path(rows[0][0]).read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with (folder / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("filepath", "caption", "split"), *rows, (folder / "cut.jpg", "half a photo", "train")])
    return folder / "photos.csv"


def test_from_a_table_of_photos_to_a_report(table, tmp_path, monkeypatch):
    monkeypatch.setenv("WHOLEGRAIN_WEIGHTS", str(FOLDER / "weights"))
    data, run, cache = tmp_path / "photos", tmp_path / "run", tmp_path / "cache"
    command("prepare", table, data, "--image-root", "/")
    manifest = json.loads((data / "manifest.json").read_text())
    assert {name: part["images"] for name, part in manifest["splits"].items()} == COUNTS
    assert manifest["broken"]["count"] == 1
    command("inspect", data)
    assert (data / "contact_sheet.html").stat().st_size > 10_000

    pair = tmp_path / "pair.toml"
    pair.write_text(PAIR)
    settings = ["--cache", cache, "--batch", 70, "--lr", "2e-3", "--steps", 40, "--optimiser.warmup_steps", 5, "--quiet"]
    settings += ["--data.crop_scale", "[1.0, 1.0]", "--saving.evaluate_every", 20, "--device", "cpu", "--workers", 0]
    command("train", "clip", "--data", data, "--model", pair, "--out", run, *settings)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])

    command("evaluate", run, "--data", data, "--suite", "retrieval", "--out", run / "test", "--device", "cpu")
    (result,) = json.loads((run / "test" / "results.json").read_text())["results"]
    figures = {figure["name"]: figure for figure in result["figures"]}
    for way in ("text", "image"):
        recall = figures[f"{way}_retrieval_recall@5"]
        assert recall["low"] > recall["chance"], "140 photos are enough to learn something that holds for others"
        assert recall["shuffled"] < recall["low"]
    command("report", run, "--data", data, "--suite", "retrieval", "--out", tmp_path / "report.html", "--device", "cpu")
    assert "recall" in (tmp_path / "report.html").read_text()
