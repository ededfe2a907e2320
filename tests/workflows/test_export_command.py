"""``wholegrain export``: what it prints and writes, the card, and the way to the Hub."""

import json
import re
from typing import ClassVar

import pytest
import yaml
from house_models import open_clip_folder
from huggingface_hub import ModelCard
from tiny_training import make_dataset

from wholegrain.cli.main import main
from wholegrain.data.dataset import Dataset
from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import MachineError, UserError
from wholegrain.evaluation.result import load_results
from wholegrain.towers import HeadConfig, convert_head, load_model, save_model
from wholegrain.towers.export import export as towers_export
from wholegrain.towers.export.int8 import INT8, OnnxModel
from wholegrain.workflows import export as app_export
from wholegrain.workflows.export import ExportOptions, push

transformers = pytest.importorskip("transformers")


@pytest.fixture
def base(tmp_path):
    open_clip_folder(tmp_path / "base")
    return tmp_path / "base"


def wholegrain(*args):
    with pytest.raises(SystemExit) as end:
        main(list(map(str, args)))
    return end.value.code


def front(folder):
    text = (folder / "README.md").read_text()
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1]), text.split("---\n", 2)[2]


def make_run(tmp_path, base):
    """A trained run as ``wholegrain train`` writes it, and its evaluation."""
    data = tmp_path / "photos"
    make_dataset(data, splits=("train", "val", "test"))
    settings = ("--steps", 2, "--batch", 8, "--workers", 0, "--quiet", "--optimiser.precision", "fp32")
    assert wholegrain("train", "clip", "--data", data, "--model", base, "--out", tmp_path / "run", *settings) == 0
    return data, tmp_path / "run"


def test_a_run_goes_out_with_a_card_that_tells_where_it_comes_from(base, tmp_path, capsys):
    data, run = make_run(tmp_path, base)
    assert wholegrain("evaluate", run, "--data", data, "--suite", "retrieval", "--out", tmp_path / "results") == 0
    capsys.readouterr()
    code = wholegrain("export", run, tmp_path / "out", "--to", "transformers", "--results", tmp_path / "results")
    said = capsys.readouterr().out
    assert code == 0, said
    assert "image features" in said
    assert str(tmp_path / "out") in said
    head, body = front(tmp_path / "out")
    assert head["library_name"] == "transformers"
    assert head["pipeline_tag"] == "zero-shot-image-classification"
    assert {"clip", "wholegrain"} <= set(head["tags"])
    found = load_results(tmp_path / "results")[0][0].figure("image_retrieval_recall@1").value
    results = head["model-index"][0]["results"]
    metric = next(m for r in results for m in r["metrics"] if m["type"] == "image_retrieval_recall@1")
    assert metric["value"] == pytest.approx(found, abs=1e-4)
    assert results[0]["dataset"]["name"] == "photos"
    facts = json.loads((run / "run.json").read_text())
    assert facts["data_hash"] in body
    assert "Radford" in body
    assert f'from_pretrained("{tmp_path / "out"}")' in body
    assert ModelCard.load(tmp_path / "out" / "README.md").data.library_name == "transformers"


def branched(base, tmp_path):
    model = convert_head(load_model(base), HeadConfig("branches", branches=3, noise=0.5))
    save_model(model, tmp_path / "holistic")
    return tmp_path / "holistic"


def test_an_approximation_is_measured_on_data(base, tmp_path, capsys):
    model = branched(base, tmp_path)
    make_dataset(tmp_path / "photos", splits=("train", "test"))
    assert wholegrain("export", model, tmp_path / "out", "--to", "open_clip") == 2
    assert "its 3 branches" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    args = ("export", model, tmp_path / "out", "--to", "open_clip", "--approximate", "--data", tmp_path / "photos")
    assert wholegrain(*args) == 0
    said = capsys.readouterr().out
    assert "image_retrieval_recall@1" in said
    assert "exact" in said
    assert "exported" in said
    head, body = front(tmp_path / "out")
    assert "An approximation" in body
    assert "exact model" in body
    plain = load_model(tmp_path / "out")
    assert plain.head.kind == "plain"
    metrics = {m["type"]: m["value"] for r in head["model-index"][0]["results"] for m in r["metrics"]}
    ours = app_export._recalls(plain, Dataset(tmp_path / "photos"), "test")  # of what was written, not of the exact model
    assert metrics == pytest.approx({name: ours[name] for name in app_export.RECALLS}, abs=1e-4)


def test_an_approximation_without_data_says_how_far_off_it_is(base, tmp_path, capsys):
    model = branched(base, tmp_path)
    assert wholegrain("export", model, tmp_path / "out", "--to", "transformers", "--approximate") == 0
    said = capsys.readouterr().out
    assert "pictures of noise" in said
    cosine = float(said.split("model's own: ")[1].split()[0])
    assert 0 < cosine < 0.9999
    assert f"{cosine:.4f}" in front(tmp_path / "out")[1]


def test_an_approximation_for_optimum(base, tmp_path, capsys, monkeypatch):
    given = []
    monkeypatch.setattr(towers_export, "write_optimum", lambda model, folder: given.append(model))  # the graphs have a test of their own
    monkeypatch.setattr(towers_export, "optimum_distances", lambda model, folder: {"text embeds": 0.0})
    model = branched(base, tmp_path)
    assert wholegrain("export", model, tmp_path / "out", "--to", "optimum") == 0
    assert given.pop().head.kind == "branches"
    assert wholegrain("export", model, tmp_path / "plain", "--to", "optimum", "--approximate") == 0
    assert given.pop().head.kind == "plain"
    said = capsys.readouterr().out
    assert "exported is an approximation" in said
    assert "read back with onnxruntime" in said
    assert "optimum has no place for all of the model" in front(tmp_path / "plain")[1]


def test_what_can_be_held_is_never_approximated(base, tmp_path, capsys):
    assert wholegrain("export", base, tmp_path / "out", "--to", "open_clip", "--approximate") == 0
    assert "approximation" not in capsys.readouterr().out
    assert "approximation" not in front(tmp_path / "out")[1].lower()


@pytest.mark.slow
def test_int8_graphs_are_measured_on_data(base, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    measured = []
    monkeypatch.setattr(app_export, "OnnxModel", lambda folder, kind="": measured.append(kind) or OnnxModel(folder, kind))
    make_dataset(tmp_path / "photos", splits=("train", "test"))
    refused = ("export", base, tmp_path / "out", "--to", "open_clip", "--int8")
    assert wholegrain(*refused) == 2
    assert "--to onnx" in capsys.readouterr().err
    assert wholegrain("export", base, tmp_path / "out", "--to", "onnx", "--int8", "--data", tmp_path / "photos", "--split", "tset") == 2
    assert "no split" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert wholegrain("export", base, tmp_path / "out", "--to", "onnx", "--int8", "--data", tmp_path / "photos") == 0
    said = capsys.readouterr().out
    assert "int8: mean cosine" in said
    exact, ours = (app_export._recalls(model, Dataset(tmp_path / "photos"), "test") for model in (load_model(base), OnnxModel(tmp_path / "out", INT8)))
    assert measured == [INT8]
    for name in app_export.RECALLS:
        assert re.search(rf"{name} +exact +{exact[name]:.1%} +int8 +{ours[name]:.1%} ", said)
    assert (tmp_path / "out/image.int8.onnx").is_file()
    body = front(tmp_path / "out")[1]
    assert "**int8.**" in body
    assert "depends a little on what else is in the call" in body
    assert "exact model" in body


class FakeHub:
    """Remembers what it was told, and the folder's files."""

    calls: ClassVar[list] = []

    def create_repo(self, repository, *, private, exist_ok):
        self.calls.append(("create", repository, private, exist_ok))
        return f"https://huggingface.co/{repository}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        from pathlib import Path

        files = {p.name: p.read_bytes() for p in Path(folder_path).iterdir()}
        self.calls.append(("upload", repo_id, files, commit_message))


def test_push(base, tmp_path, capsys, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "calls", [])
    assert wholegrain("export", base, "--to", "open_clip", "--push", "me/mine", "--private") == 0
    assert "https://huggingface.co/me/mine" in capsys.readouterr().out
    created, uploaded = FakeHub.calls
    assert created == ("create", "me/mine", True, True)
    files = uploaded[2]
    assert {"README.md", "open_clip_config.json", "open_clip_model.safetensors"} <= set(files)
    assert b'"hf-hub:me/mine"' in files["README.md"]
    assert yaml.safe_load(files["README.md"].decode().split("---\n")[1])["library_name"] == "open_clip"


def test_the_hub_refuses(tmp_path):
    class Refusing(FakeHub):
        def create_repo(self, repository, **_):
            raise OSError("401 Client Error: Unauthorized\nmore")

    with pytest.raises(MachineError, match=r"me/mine could not be pushed \(401 Client Error: Unauthorized\)"):
        push(tmp_path, "me/mine", False, Refusing)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (ExportOptions("x", None, "onnx"), "name a folder"),
        (ExportOptions("x", None, "onnx", push="mine"), "org/name"),
    ],
)
def test_where_to(wish, words):
    with pytest.raises(UserError, match=words):
        app_export.export(wish)


def test_results_that_are_not_there(base, tmp_path):
    with pytest.raises(UserError, match=r"no results\.json"):
        app_export.export(ExportOptions(str(base), tmp_path / "out", "open_clip", results=tmp_path))
    assert not (tmp_path / "out").exists()


def test_preprocessing_goes_along(base, tmp_path):
    model = load_model(base)
    model.preprocess = Preprocess(32, "squash", "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    save_model(model, tmp_path / "m")
    for to in ("open_clip", "transformers"):
        assert wholegrain("export", tmp_path / "m", tmp_path / to, "--to", to) == 0
        again = load_model(tmp_path / to).preprocess
        assert again == model.preprocess
