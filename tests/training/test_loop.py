"""The loop: it learns, it resumes bit for bit, it keeps the best, it stops well."""

import json
import math
import os
import signal

import pytest
import torch
from tiny_runs import KilledError, kill_at, lines, run, same_weights, weights
from tiny_training import COLOURS, SIZE, make_dataset, make_model, make_recipe, picture

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Negative, Record, Twin, caption_id, content_key
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import write_sidecar
from wholegrain.errors import UserError
from wholegrain.objectives.objective import Objective
from wholegrain.objectives.recipe import load_recipe, recipe_names
from wholegrain.towers.io import load_model
from wholegrain.training.encoder import Encoder
from wholegrain.training.run import adapt_model


@pytest.mark.parametrize(("name", "workers"), [("wholegrain", 0), ("sparc", 2), ("holistic", 0)])
def test_a_killed_run_resumes_bit_for_bit(dataset, tmp_path, name, workers):
    recipe = make_recipe(name, "--saving.every", "5")
    run(dataset, tmp_path / "whole", recipe)
    with pytest.raises(KilledError):
        run(dataset, tmp_path / "cut", recipe, on_step=kill_at(7), workers=workers)
    torch.manual_seed(99)  # another process would not have these random states either
    run(dataset, tmp_path / "cut", recipe, load_model(tmp_path / "cut"), resume=True, workers=workers)
    assert lines(tmp_path / "whole") == lines(tmp_path / "cut")
    assert [line["step"] for line in lines(tmp_path / "cut")] == list(range(10))
    same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


@pytest.mark.parametrize(("has_bf16", "taken"), [(False, "fp32"), (True, "bf16")])
def test_training_learns_in_the_numbers_of_any_processor(dataset, tmp_path, monkeypatch, has_bf16, taken):
    monkeypatch.setattr("wholegrain.training.memory.precision.processor_has_bf16", lambda: has_bf16)
    quick = ["--optimiser.steps", "60", "--optimiser.lr", "3e-3", "--optimiser.precision", "auto"]
    run(dataset, tmp_path / "run", make_recipe("negclip", *quick, "--data.captions", '[{roles=["web"]}]'))
    assert load_recipe(tmp_path / "run" / "recipe.toml").optimiser.precision == taken
    losses = [line["loss"] for line in lines(tmp_path / "run")]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


EVERY = (*recipe_names(), *recipe_names("scenes"))
SMALL = {
    "llip": ("--model.head_settings.mixtures", "3"),
    "mgca": ("--model.head_settings.prototypes", "5"),
    "cosmos": ("--data.views", "[{count=1, crop_scale=[0.4, 1.0]}, {count=1, crop_scale=[0.05, 0.4]}]"),
    "holistic_mlp": ("--model.head_settings.branch_blocks", "1"),
}


def _to_blue(caption):
    place = caption.text.index("red")
    return ((place, place + 3, "red", "blue"),)


@pytest.fixture(scope="module")
def every_role(tmp_path_factory):
    """Eight pictures with a caption of every role that a packaged recipe names, and negatives of every kind for the whole captions."""
    folder = tmp_path_factory.mktemp("every_role")
    roles = ("web", "overview", "relation", "main_object", "background", "phrase", "paraphrase", "style")
    kinds = ("relation", "swap_object", "swap_attribute", "place")
    negatives = []
    with ShardWriter(folder) as writer:
        for number in range(8):
            colour = list(COLOURS)[number % 4]
            image = picture(colour, colour, number)
            key = content_key(image)
            captions = [Caption(caption_id(f"{role} {number}"), f"{role} red {number}", role) for role in roles]
            writer.add(Record(key, f"{key}.png", (SIZE, SIZE), "train", None, tuple(captions)), image)
            whole = [caption for caption in captions if caption.role != "phrase"]
            negatives += [Negative(key, c.id, kind, f"{kind} blue {number}", _to_blue(c)) for c in whole for kind in kinds]
        keys = [negatives[number].key for number in range(0, len(negatives), len(negatives) // 8)]
    write_sidecar(folder, "negatives", negatives)
    pairs = zip(keys[::2], keys[1::2], strict=True)
    write_sidecar(folder, "twins", [Twin(f"t{n}", "colour", pair, ("overview red 0", "a")) for n, pair in enumerate(pairs)])
    return Dataset(folder)


@pytest.mark.parametrize("name", EVERY)
def test_every_packaged_recipe_trains(every_role, tmp_path, name):
    recipe = make_recipe(name, "--optimiser.steps", "2", "--optimiser.warmup_steps", "0", *SMALL.get(name, ()))
    start = make_model(every_role)
    adapt_model(start, recipe)
    before = {key: value.clone() for key, value in start.state_dict().items()}
    trained = run(every_role, tmp_path / "run", recipe, start)
    found = load_model(trained)
    assert found.head.kind == recipe.model.head
    assert (found.bias is not None) == ("bias" in Objective(recipe.terms).needs)
    logged = lines(tmp_path / "run")
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in logged)
    assert all(f"loss/{term.name}" in line for line in logged for term in recipe.terms)  # none was left out
    after = found.state_dict()
    assert any(not torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "towers"), [("ce_clip", ("image", "text")), ("sparc", ("image", "text")), ("holistic", ("text",))]
)
def test_cached_features_of_frozen_towers_give_the_same_features_and_run(dataset, tmp_path, recipe, towers):
    frozen = [word for tower in towers for word in (f"--model.tune_{tower}", "none")]
    chosen = make_recipe(recipe, *frozen, "--data.crop_scale", "[1.0, 1.0]", "--optimiser.steps", "20")
    calls = {"image": 0, "text": 0}
    model = make_model(dataset)
    for tower in calls:
        module = getattr(model, f"{tower}_tower")
        module.register_forward_hook(lambda *_, tower=tower: calls.__setitem__(tower, calls[tower] + 1))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    said = []
    run(dataset, tmp_path / "run", chosen, model, on_step=lambda outcome: said.append(outcome.loss) and None)
    for tower in towers:
        assert calls[tower] <= 2, "a frozen tower runs once, in chunks, and not at every step"
        assert all(torch.equal(v, start[k]) for k, v in model.state_dict().items() if k.startswith(f"{tower}_tower"))
    live = make_model(dataset)
    losses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wholegrain.training.trainer.make_encoder", lambda run, *_: Encoder(run.model))
        run(dataset, tmp_path / "live", chosen, live, on_step=lambda outcome: losses.append(outcome.loss) and None)
    assert said == pytest.approx(losses, rel=1e-3)


@pytest.mark.slow
def test_the_best_evaluated_model_is_kept(dataset, tmp_path):
    values, seen = iter([0.2, 0.9, 0.4, 0.1]), []

    def evaluate(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        model.eval()
        return {"loss": 0.0, "score": next(values)}

    recipe = make_recipe("clip", "--optimiser.steps", "8", "--saving.evaluate_every", "2", "--saving.metric", "score")
    trained = run(dataset, tmp_path / "run", recipe, evaluate=evaluate)
    same_weights(weights(trained), seen[1])
    assert [line["evaluation"]["score"] for line in lines(tmp_path / "run") if "evaluation" in line] == [0.2, 0.9, 0.4, 0.1]
    wrong = make_recipe("clip", "--optimiser.steps", "1", "--saving.metric", "scoer")
    with pytest.raises(UserError, match=r'"scoer".*"score"'):
        run(dataset, tmp_path / "other", wrong, evaluate=lambda model: {"score": 0.1})


def test_the_run_folder_says_what_it_is(dataset, tmp_path):
    recipe = make_recipe("clip", "--optimiser.steps", "4", "--saving.every", "1")
    run(dataset, tmp_path / "run", recipe, origin={"command": "x"})
    folder = tmp_path / "run"
    facts = json.loads((folder / "run.json").read_text())
    assert facts["data_hash"] == dataset.content_hash
    assert (facts["command"], facts["seed"]) == ("x", 0)
    assert load_recipe(folder / "recipe.toml") == recipe
    assert {"metrics.jsonl", "tensorboard", "checkpoints", "model"} <= {path.name for path in folder.iterdir()}
    assert len(list((folder / "checkpoints").iterdir())) == 2
    assert list((folder / "tensorboard").glob("events*"))
    assert (tmp_path / "latest").resolve() == folder.resolve()
    assert {"loss", "loss/clip", "lr", "grad_norm", "scale"} <= lines(folder)[0].keys()
    with pytest.raises(UserError, match="already holds a run"):
        run(dataset, folder, recipe)
    with pytest.raises(UserError, match="no run to resume"):
        run(dataset, tmp_path / "none", recipe, resume=True)


@pytest.mark.slow
def test_changed_data_are_refused_on_resume(dataset, tmp_path):
    recipe = make_recipe("clip", "--optimiser.steps", "1")
    run(dataset, tmp_path / "run", recipe)
    other = make_dataset(tmp_path / "data", count=20)
    with pytest.raises(UserError, match=r"was made with other data \(content hash "):
        run(other, tmp_path / "run", recipe, make_model(other), resume=True)


def test_a_changed_recipe_is_refused_on_resume_and_what_differs_is_said(dataset, tmp_path):
    run(dataset, tmp_path / "run", make_recipe("clip", "--optimiser.steps", "1"))
    other = make_recipe("clip", "--optimiser.steps", "3", "--optimiser.lr", "2e-3")
    said = r"was made with optimiser\.lr 0\.001, not 0\.002; optimiser\.steps 1, not 3; ask"
    with pytest.raises(UserError, match=said):
        run(dataset, tmp_path / "run", other, load_model(tmp_path / "run"), resume=True)
    assert len(lines(tmp_path / "run")) == 1


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(dataset, tmp_path):
    model = make_model(dataset)

    def poison(outcome):
        if outcome.step == 2:
            with torch.no_grad():
                model.head.image.weight.fill_(math.nan)

    with pytest.raises(UserError, match=r"not a finite number at step 3.*nonfinite\.json.*a lower --lr, such as 0\.0003 \(now 0\.001\)"):
        run(dataset, tmp_path / "run", make_recipe(), model, on_step=poison)
    noted = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert noted["step"] == 3
    assert len(noted["keys"]) == 8
    assert set(noted["keys"]) <= set(dataset.keys("train"))


def test_on_step_can_end_the_training(dataset, tmp_path):
    trained = run(dataset, tmp_path / "run", make_recipe(), on_step=lambda outcome: outcome.step == 3)
    assert len(lines(tmp_path / "run")) == 4
    assert load_model(trained)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 0)])
def test_interrupts_finish_the_step_save_and_end(dataset, tmp_path, number, workers):
    before = signal.getsignal(number)

    def interrupt(outcome):
        if outcome.step == 3:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as caught:
        run(dataset, tmp_path / "run", make_recipe(), on_step=interrupt, workers=workers)
    if number == signal.SIGTERM:
        assert caught.value.code == 143
    assert signal.getsignal(number) is before
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]
    run(dataset, tmp_path / "run", make_recipe(), load_model(tmp_path / "run"), resume=True)
    run(dataset, tmp_path / "whole", make_recipe())
    same_weights(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_an_evaluation_that_was_due_when_the_signal_came_is_made_on_resuming(dataset, tmp_path):
    recipe = make_recipe("clip", "--optimiser.steps", "8", "--saving.evaluate_every", "4")
    evaluate = lambda model: {"score": -model.log_scale.item()}  # noqa: E731
    run(dataset, tmp_path / "whole", recipe, evaluate=evaluate)
    on_step = lambda outcome: os.kill(os.getpid(), signal.SIGINT) if outcome.step == 3 else None  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "cut", recipe, evaluate=evaluate, on_step=on_step)
    run(dataset, tmp_path / "cut", recipe, load_model(tmp_path / "cut"), evaluate=evaluate, resume=True)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    same_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_run_killed_after_an_evaluation_and_before_its_first_checkpoint_begins_anew_as_it_began(dataset, tmp_path):
    recipe = make_recipe("clip", "--optimiser.steps", "6", "--saving.every", "6", "--saving.evaluate_every", "2")
    evaluate = lambda model: {"score": model.log_scale.item()}  # noqa: E731
    run(dataset, tmp_path / "whole", recipe, evaluate=evaluate)
    with pytest.raises(KilledError):
        run(dataset, tmp_path / "cut", recipe, evaluate=evaluate, on_step=kill_at(4))
    assert not list((tmp_path / "cut" / "checkpoints").glob("step-*"))
    run(dataset, tmp_path / "cut", recipe, load_model(tmp_path / "cut"), evaluate=evaluate, resume=True)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    same_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert not (tmp_path / "cut" / "start").exists()  # of no use any more
