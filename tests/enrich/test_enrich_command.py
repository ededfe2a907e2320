"""``wholegrain enrich`` as it is called, and what training makes of it."""

import json
import shutil

import pytest
from caption_server import serving
from tiny_training import make_dataset

from wholegrain.cli.main import main
from wholegrain.data.dataset import Dataset


@pytest.fixture
def data(tmp_path):
    make_dataset(tmp_path / "d", 6)
    (tmp_path / "d" / "negatives.parquet").unlink()
    return tmp_path / "d"


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["enrich", *map(str, arguments)])
    told = capsys.readouterr()
    return ended.value.code, told.out + told.err


def test_captions_by_prompts_for_train_alone(data, tmp_path, capsys):
    with serving(tmp_path, models=["m"]) as (url, log):
        code, said = call(capsys, data, "--captions", url, "--prompts", "detail", "style", "--concurrency", 2)
        assert code == 0, said
        assert "captions: 12 rows of 6 records" in said
        assert "1,320 tokens" in said
        assert len(log()) == 12
        code, said = call(capsys, data, "--captions", url, "--prompts", "detail", "style")
        assert "captions: 12 rows of 6 records, there already" in said
        code, said = call(capsys, data, "--captions", url, "--prompts", "detail")
        assert code == 2
        assert "made in another way; choose another folder with --out, or give --replace" in said
        assert len(log()) == 12
    dataset = Dataset(data)
    assert dataset.roles["detail"] == 12 + 6
    assert all(len(record.captions) == 3 for record in dataset.records("val"))
    assert all(len(record.captions) == 5 for record in dataset.records("train"))


def test_negatives_of_some_kinds_and_into_another_folder(data, tmp_path, capsys):
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    code, said = call(capsys, data, "--negatives", "attribute", "--out", tmp_path / "o", "--workers", 1)
    assert f"written: {tmp_path / 'o' / 'negatives.parquet'}" in said
    assert f"next: wholegrain train negclip --data {tmp_path / 'o'}" in said
    assert code == 0, said
    other = Dataset(tmp_path / "o")
    assert {kind.split("_")[0] for kind in other.negative_kinds} == {"attribute"}
    assert other.records_hash == Dataset(data).records_hash
    assert other.twins == Dataset(data).twins
    key = other.keys("val")[0]
    assert (other.pixels(key) == Dataset(data).pixels(key)).all()
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
    code, said = call(capsys, data, "--negatives", "attribute", "--out", tmp_path / "o", "--workers", 1)
    assert "there already" in said
    make_dataset(tmp_path / "e", 5)
    code, said = call(capsys, tmp_path / "e", "--negatives", "--out", tmp_path / "o")
    assert (code, "holds other data" in said) == (2, True)


def test_methods_and_as_many_random_ones_as_a_control(data, tmp_path, capsys):
    code, said = call(capsys, data, "--negatives", "attribute", "object", "--hard-positives", "--workers", 1, "--audit")
    assert code == 0, said
    assert f"look at {data / 'enrich' / 'quality.html'}" in said
    assert "<html" in (data / "enrich" / "quality.html").read_text()
    assert "hard_positives: " in said
    made = Dataset(data).negatives
    for method, folder in (("random", "r"), ("negclip", "n")):
        replace = ["--replace"] if method == "random" else []  # it begins with a copy of those that it is to be as many as
        code, said = call(capsys, data, "--negatives", "--method", method, "--out", tmp_path / folder, *replace, "--workers", 1)
        assert code == 0, said
    control = Dataset(tmp_path / "r").negatives
    assert {place: len(rows) for place, rows in control.items()} == {place: len(rows) for place, rows in made.items()}
    assert len(Dataset(tmp_path / "n").negatives) > 0
    code, said = call(capsys, data, "--negatives", "negation", "--splits", "train", "--replace", "--workers", 1)
    assert code == 0, said
    assert Dataset(data).roles["negated"] == 12  # "a red half" and "red things" of each of six, not "red beside red"
    assert {kind.split("_")[0] for kind in Dataset(data).negative_kinds} == {"negation"}


def test_what_cannot_be_done_is_said(data, tmp_path, capsys):
    for arguments, words in (
        ((data,), "Say what to make"),
        ((data, "--negatives", "colour"), "no kind 'colour'"),
        ((data, "--captions", "x@http://127.0.0.1:9/v1", "--budget", "5usd"), "needs --prices"),
        ((data, "--captions", "x@http://127.0.0.1:9/v1", "--prompts", "stile"), 'did you mean "style"'),
        ((data, "--negatives", "--splits", "dev"), "no split 'dev'"),
        ((data, "--negatives", "--method", "ce_clip"), "--method ce_clip needs a masked language model"),
        ((data, "--captions", "x@http://127.0.0.1:9/v1", "--extra", "[1]"), "is no JSON object"),
        ((data, "--negatives", "--max-failed", "3"), "--max-failed must be"),
        ((tmp_path / "none", "--negatives"), "does not exist"),
    ):
        code, said = call(capsys, *arguments)
        assert (code, words in said) == (2, True), said
        assert len(said.strip().splitlines()) == 1
    assert not (data / "negatives.parquet").exists()


def test_failures_are_listed(data, tmp_path, capsys):
    with serving(tmp_path, models=["m"], finish="content_filter") as (url, _):
        code, said = call(capsys, data, "--captions", url, "--prompts", "style", "--max-failed", 1)
    assert code == 0
    assert "6 failures are listed in" in said.replace("\n", " ")
    listed = [json.loads(line) for line in (data / "enrich" / "failures-captions.jsonl").read_text().splitlines()]
    assert {line["key"] for line in listed} == set(Dataset(data).keys("train"))
    assert {line["reason"] for line in listed} == {"prompt style: the endpoint's filter held the answer back"}
    shutil.rmtree(data / "enrich")
