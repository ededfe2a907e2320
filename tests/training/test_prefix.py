"""The first steps of runs of different lengths, taken once: what goes on from a shorter run ends with the bits of one that did all itself."""

import json
import shutil

import pytest
from tiny_runs import KilledError, kill_at, lines, run, same_weights, weights
from tiny_training import make_model, make_recipe, train

from wholegrain.errors import UserError
from wholegrain.towers.io import load_model
from wholegrain.training import trainer
from wholegrain.training.checkpoints import checkpoint

WSD = ("--optimiser.schedule", "wsd", "--optimiser.decay_share", "0.25")
FROZEN = ("--model.tune_image", "none", "--data.crop_scale", "[1.0, 1.0]")


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    monkeypatch.setattr(trainer, "matrix_peak", lambda *_: 0.0)  # takes half a second, and only its share would be logged


def wsd(steps, *overrides, name="ce_clip"):
    return make_recipe(name, *WSD, "--optimiser.steps", str(steps), *overrides)


def kept(folder):
    """The steps of the checkpoint in ``stable/``."""
    return [path.name for path in checkpoint.folders(folder / "stable")]


def all_bits(folder):
    """Weights of the model, tensors of the last checkpoint, and the log but for times."""
    saved, notes = checkpoint.load_newest(folder / "checkpoints")
    assert saved is not None
    assert not notes
    return {**weights(folder), **{f"saved/{name}": value for name, value in saved.tensors.items()}}, lines(folder)


def same(one, other):
    (tensors, said), (others, also) = all_bits(one), all_bits(other)
    same_weights(tensors, others)
    assert said == also


@pytest.mark.parametrize(
    "recipe", [("ce_clip", ("--teacher.kind", "ema")), ("clip", FROZEN)], ids=["teacher", "frozen"]
)
def test_what_goes_on_from_shorter_runs_ends_with_the_bits_of_a_run_made_alone(dataset, tmp_path, recipe):
    name, overrides = recipe
    lengths = (4, 8, 12)  # each sees more images than there are, so that frozen towers are encoded beforehand in all of them
    for before, steps in zip((None, *lengths), lengths, strict=False):
        chain = {} if before is None else {"after": tmp_path / f"chain-{before}"}
        run(dataset, tmp_path / f"chain-{steps}", wsd(steps, *overrides, name=name), **chain)
        run(dataset, tmp_path / f"alone-{steps}", wsd(steps, *overrides, name=name))
        same(tmp_path / f"chain-{steps}", tmp_path / f"alone-{steps}")
        assert kept(tmp_path / f"chain-{steps}") == [f"step-{steps * 3 // 4:08d}"]
    taken = [(tmp_path / f"chain-{steps}" / "model" / "model.safetensors").read_bytes() for steps in lengths]
    assert len(set(taken)) == 3


def test_the_common_steps_are_not_taken_again(dataset, tmp_path):
    seen = []
    run(dataset, tmp_path / "short", wsd(4))
    run(dataset, tmp_path / "long", wsd(8), after=tmp_path / "short", on_step=lambda outcome: seen.append(outcome.step))
    assert seen == [3, 4, 5, 6, 7]
    log = [json.loads(line) for line in (tmp_path / "long" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(8))
    short = (tmp_path / "short" / "metrics.jsonl").read_text().splitlines()
    assert (tmp_path / "long" / "metrics.jsonl").read_text().splitlines()[:3] == short[:3], "times, too"


@pytest.mark.parametrize("step", [4, 6])
def test_killed_before_or_while_the_rate_falls_it_goes_on_to_the_same_bits(dataset, tmp_path, step):
    run(dataset, tmp_path / "alone", wsd(8))
    run(dataset, tmp_path / "short", wsd(4))
    recipe = wsd(8, "--saving.every", "2")
    chain = {"after": tmp_path / "short"}
    with pytest.raises(KilledError):
        run(dataset, tmp_path / "cut", recipe, on_step=kill_at(step), **chain)
    run(dataset, tmp_path / "cut", recipe, load_model(tmp_path / "cut"), resume=True, **chain)
    same_weights(weights(tmp_path / "cut"), weights(tmp_path / "alone"))
    assert lines(tmp_path / "cut") == lines(tmp_path / "alone")
    assert kept(tmp_path / "cut") == ["step-00000006"]


def test_killed_before_its_first_checkpoint_it_begins_anew_without_the_shorter_run(dataset, tmp_path):
    run(dataset, tmp_path / "alone", wsd(8))
    run(dataset, tmp_path / "short", wsd(4))
    with pytest.raises(KilledError):
        run(dataset, tmp_path / "cut", wsd(8), on_step=kill_at(4), after=tmp_path / "short")
    shutil.rmtree(tmp_path / "short")
    run(dataset, tmp_path / "cut", wsd(8), load_model(tmp_path / "cut"), resume=True)
    same(tmp_path / "cut", tmp_path / "alone")


DIFFERENT = {
    "was made with optimiser.lr": (wsd(8), wsd(12, "--optimiser.lr", "2e-3"), {}),
    "the schedule is cosine": (wsd(8), make_recipe("ce_clip", "--optimiser.steps", "12"), {}),
    "cut the warm-up to 4": (wsd(8, "--optimiser.warmup_steps", "5"), wsd(12, "--optimiser.warmup_steps", "5"), {}),
    "began to fall at step 6, this one's does at 3": (wsd(8), wsd(4), {}),
    "was made with another starting model": (wsd(8), wsd(12), {"seed": 1}),
    "encoded beforehand in one of the two": (wsd(2, *FROZEN, "--optimiser.warmup_steps", "1"), wsd(12, *FROZEN, "--optimiser.warmup_steps", "1"), {}),
}  # fmt: skip


@pytest.mark.parametrize("said", DIFFERENT)
def test_steps_that_are_not_the_same_are_not_taken_over_and_why_is_said(dataset, tmp_path, said, capsys):
    first, second, model = DIFFERENT[said]
    run(dataset, tmp_path / "short", first)
    capsys.readouterr()
    start = make_model(dataset, **model)
    train(second, dataset, start, tmp_path / "long", after=tmp_path / "short", device="cpu")
    assert said in " ".join(capsys.readouterr().err.split())
    run(dataset, tmp_path / "alone", second, make_model(dataset, **model))
    same(tmp_path / "long", tmp_path / "alone")


def test_another_share_of_decay_has_the_same_first_steps(dataset, tmp_path):
    run(dataset, tmp_path / "short", wsd(8, "--optimiser.decay_share", "0.5"))
    run(dataset, tmp_path / "long", wsd(8), after=tmp_path / "short")
    run(dataset, tmp_path / "alone", wsd(8))
    same(tmp_path / "long", tmp_path / "alone")


def test_a_folder_without_a_run_is_refused_and_so_is_an_evaluation_on_the_way(dataset, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        run(dataset, tmp_path / "long", wsd(8), after=tmp_path / "nothing")
    with pytest.raises(ValueError, match="is not evaluated on the way"):
        run(dataset, tmp_path / "long", wsd(8), after=tmp_path / "nothing", evaluate=lambda model: {"score": 0.0})
    assert not (tmp_path / "long").exists()
