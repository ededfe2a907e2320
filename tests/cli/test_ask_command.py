"""``wholegrain ask`` as it is typed, on tiny scenes: results, page, going on, refusals, own questions, a decoder of a folder."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scenes_and_model import make_place, typed
from tiny_vlm import make_vlm

from wholegrain.evaluation.result import load_results

KINDS = ("--data.kinds", '["exists","compare"]')
QUICK = ("--steps", "4", "--batch", "8", "--device", "cpu", "--training.warmup_steps", "2", "--training.save_every", "2",
         "--decoder.width", "16", "--decoder.layers", "1", "--decoder.heads", "2", "--decoder.longest", "2")  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with ``scenes`` and ``model``."""
    return make_place(tmp_path_factory.mktemp("place"), 40, 30, image_layers=2)


@pytest.fixture
def type_in(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    return partial(typed, capsys)


@pytest.mark.slow
def test_ask_trains_measures_and_goes_on(type_in, tmp_path):
    command = ("ask", "model", "scenes", "--out", tmp_path / "run", *QUICK, *KINDS, "--tokens.layer", "penultimate")
    code, said, complaint = type_in(*command, "--save-llava", tmp_path / "llava")
    assert code == 0, complaint
    assert max(map(len, said.splitlines()[:-4])) <= 80
    assert f"written: {tmp_path}/run/results.json, {tmp_path}/run/ask.html" in said
    (result,), meta = load_results(tmp_path / "run")
    assert {"accuracy", "accuracy_question_only", "exists/accuracy", "compare/accuracy_question_only"} <= set(result.metrics)
    for kind in ("exists", "compare"):
        figure = result.figure(f"{kind}/accuracy")
        assert figure.chance == 0.5
        assert figure.shuffled is not None
        assert result.figure(f"{kind}/accuracy_question_only").value <= 0.5  # whatever is said, it is said to every picture of a text
    assert (meta["split"], meta["model"], meta["dataset"]) == ("test", "model", "scenes")
    assert "4 steps of 8" in result.protocol
    page = (tmp_path / "run/ask.html").read_text()
    assert page.index("given wrong") < page.index("The figures")
    assert page.count("<article>") >= 12
    assert json.loads((tmp_path / "llava/config.json").read_text())["architectures"] == ["LlavaForConditionalGeneration"]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").iterdir() if file.suffix == ".safetensors"}
    (tmp_path / "run/results.json").unlink()
    assert type_in(*command)[0] == 0
    assert load_results(tmp_path / "run")[0][0].metrics == result.metrics  # measured again, not trained again
    assert before == {file: file.stat().st_mtime_ns for file in before}
    code, _, complaint = type_in(*command, "--seed", "1")
    assert code == 2
    assert "another run (" in complaint


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--steps", "0"), "training.steps is 0"),
        (("--split", "tset"), "no split 'tset'"),
        (("--data.kinds", '["exits"]'), "data.kinds"),
        (("--tokens.parts", '["branches"]', *QUICK, *KINDS), "gives no branches"),
        (("--questions", "a.jsonl"), "Give both --questions"),
        (("--questions", "a.jsonl", "--train-questions", "a.jsonl"), "a.jsonl does not exist"),
        (("--decoder", "nowhere", *KINDS), "nowhere"),
        (("--save-llava", "scenes"), "there already"),
    ],
)
def test_what_is_refused_is_said_in_one_sentence(type_in, tmp_path, words, said):
    code, _, complaint = type_in("ask", "model", "scenes", "--out", tmp_path / "run", *words)
    assert code == 2, complaint
    assert said in complaint


@pytest.mark.slow
def test_own_questions_and_a_decoder_of_a_folder(type_in, tmp_path):
    draw, rows = np.random.default_rng(0), []
    for n in range(10):
        Image.fromarray(draw.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(tmp_path / f"{n}.png")
        rows.append({"picture": f"{n}.png", "question": "red or green", "answers": ["red"] * 7 + ["green"] * 3, "kind": "colour"})
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    make_vlm(tmp_path / "decoder")
    files = ("--questions", tmp_path / "q.jsonl", "--train-questions", tmp_path / "q.jsonl", "--decoder", tmp_path / "decoder")
    code, _, complaint = type_in("ask", "model", tmp_path, "--out", tmp_path / "run", *files, *QUICK, "--tune", "last:1")
    assert code == 0, complaint
    (result,), _ = load_results(tmp_path / "run")
    assert result.figure("colour/accuracy").count == 10
    assert result.figure("accuracy").chance is None
    assert "soft accuracy" in result.protocol
    assert "tuned (last:1)" in result.protocol
    make_vlm(tmp_path / "decoder", seed=1)  # other weights in the same folder are another run
    code, _, complaint = type_in("ask", "model", tmp_path, "--out", tmp_path / "run", *files, *QUICK, "--tune", "last:1")
    assert code == 2
    assert "other data" in complaint
