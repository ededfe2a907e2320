"""The command on tiny scenes: from pictures to table and page, resumed, refused; and a captioner that learns what it sees."""

import json

import pytest
import torch
from tiny_decoders import write_decoder
from tiny_training import make_dataset, make_model

from wholegrain.cli.main import main
from wholegrain.data.scenes.build import SceneCounts, build_scenes
from wholegrain.data.scenes.world import World
from wholegrain.downstream.captioning.decoder import load_decoder
from wholegrain.downstream.captioning.examples import captioned
from wholegrain.downstream.captioning.generate import blind_caption, captions_of
from wholegrain.downstream.captioning.language_model import train_language_model
from wholegrain.downstream.captioning.settings import CaptionData, CaptionSettings, DecoderSettings, Generation, HeadSettings
from wholegrain.downstream.captioning.task import CaptionTask
from wholegrain.downstream.pictures import TowerTokens
from wholegrain.downstream.settings import HeadTraining, load_settings
from wholegrain.downstream.trainer import HeadOptions, train_head
from wholegrain.errors import UserError
from wholegrain.evaluation.result import load_results
from wholegrain.towers.io import save_model
from wholegrain.training.distributed.processes import DistributedContext

QUICK = ["--steps", "2", "--batch", "4", "--decoder.steps", "2", "--decoder.batch", "4", "--decoder.layers", "1", "--decoder.width", "16"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    dataset = build_scenes(folder / "data", World(), SceneCounts(16, 0, 5, 0, 0), workers=1)
    save_model(make_model(dataset), folder / "model")
    return folder


def run(scenes, out, *options, capsys=None):
    """Exit code, and what was printed."""
    with pytest.raises(SystemExit) as ended:
        main(["caption", str(scenes / "model"), str(scenes / "data"), "--out", str(out), "--device", "cpu", *QUICK, *options])
    return ended.value.code, (capsys.readouterr() if capsys else None)


@pytest.mark.slow
def test_from_pictures_to_table_and_page(scenes, tmp_path, capsys):
    out = tmp_path / "out"
    code, said = run(scenes, out, capsys=capsys)
    assert code == 0, said.err
    assert f"written: {out / 'results.json'}, {out / 'caption.html'}" in said.out
    assert "wholegrain compare" in said.out
    (result,), meta = load_results(out)
    assert result.figure("cider").count == 5
    assert {"k_precision_union", "left_out", "wholly_true"} <= result.metrics.keys()
    assert result.figure("left_out").chance is not None
    assert meta["split"] == "test"
    page = (out / "caption.html").read_text()
    assert page.count("<article>") == 5
    assert "without a picture" in page
    (decoder,) = out.glob("decoder-*")
    assert json.loads((decoder / "training.json").read_text())["captions"] == 16

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    assert run(scenes, out, capsys=capsys)[0] == 0  # all is done
    assert before == {path: path.stat().st_mtime_ns for path in before}
    code, said = run(scenes, out, "--roles", "overview", capsys=capsys)
    assert code == 2
    assert "holds another run" in said.err
    assert list(out.glob("decoder-*")) == [decoder]


@pytest.mark.slow
def test_a_decoder_of_a_folder_and_other_roles(scenes, tmp_path, capsys):
    decoder = write_decoder(tmp_path / "gpt2", words=["a", "cup", "red", "is", "the"], context=64)
    options = ["--decoder", str(decoder), "--roles", "relation", "overview", "--beams", "1"]
    code, said = run(scenes, tmp_path / "out", *options, capsys=capsys)
    assert code == 0, said.err
    assert not list((tmp_path / "out").glob("decoder-*"))
    recipe = (tmp_path / "out/recipe.toml").read_text()
    assert f'digest = "{load_decoder(decoder, 48).digest}"' in recipe
    assert "beams = 1" in recipe
    write_decoder(decoder, words=["a", "cup", "red", "is", "the"], context=64, seed=1)
    code, said = run(scenes, tmp_path / "out", *options, capsys=capsys)
    assert code == 2
    assert "decoder.digest" in said.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--decoder", "nowhere"], "no config.json"),
        (["--roles", "haiku"], "choose with --roles among"),
        (["--split", "tset"], "tset"),
        (["--beams", "0"], "--beams is 0"),
        (["--head.latents", "0"], "head.latents"),
        (["--decoder.width", "130"], "decoder.width"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(scenes, tmp_path, capsys, options, said):
    code, printed = run(scenes, tmp_path / "out", *options, capsys=capsys)
    assert code == 2
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_packaged_recipe_is_whole():
    settings = load_settings("caption", CaptionSettings)
    assert settings == CaptionSettings(training=settings.training)  # the file and the defaults say the same


@pytest.mark.slow
def test_it_learns_to_say_what_it_sees(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    train, val = (captioned(dataset, split, ("web",)) for split in ("train", "val"))
    small = DecoderSettings(layers=1, width=24, heads=2, vocabulary=300, steps=60, batch=24, lr=1e-2, warmup_steps=5, dropout=0.0)
    texts = [text for example in train for text in example.captions]
    for folder in ("decoder", "again"):
        train_language_model(texts, small, 6, 0, tmp_path / folder, torch.device("cpu"))
    decoder = load_decoder(tmp_path / "decoder", 6)
    assert decoder.digest == load_decoder(tmp_path / "again", 6).digest  # the same captions, the same decoder
    generation = Generation(beams=2)
    assert blind_caption(decoder, generation, 6) in texts  # the language is there, the picture is not
    training = HeadTraining(steps=300, batch=12, lr=1e-2, warmup_steps=5)
    head = HeadSettings(latents=2, width=16, layers=1, heads=2, head_width=8)
    task = CaptionTask(CaptionSettings(training, small, head, CaptionData(("web",), 6), generation), decoder)
    model = make_model(dataset)
    found, folder = train_head(task, model, dataset, train, HeadOptions(tmp_path / "run", quiet=True), DistributedContext(torch.device("cpu")))
    losses = [json.loads(line)["loss"] for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
    tokens = TowerTokens(model, dataset, task.needs)
    said = captions_of(found, decoder, tokens, [example.key for example in val], generation, 6)
    assert sum(text in example.captions for text, example in zip(said, val, strict=True)) > 0.75 * len(val)  # chance: one in 16
    assert not any("decoder" in name or "model" in name for name in found.state_dict())


def test_pictures_without_a_caption_of_the_roles(tmp_path):
    dataset = make_dataset(tmp_path / "data", count=4)
    assert next(example.captions for example in captioned(dataset, "train", ("overview", "detail"))) == ("a red half",)
    with pytest.raises(UserError, match="detail, style, web"):
        captioned(dataset, "train", ("haiku",))
