"""A competition at several budgets: runs of their own lengths that share their first steps, resumed anywhere, and nothing done twice."""

import csv
import json
from dataclasses import replace

import pytest
from tiny_runs import KilledError, same_weights, weights
from tiny_training import make_dataset, make_model, train

from wholegrain.cli.compete import CompeteArguments
from wholegrain.cli.compete import compete as command
from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.towers.io import load_model, save_model
from wholegrain.training import trainer
from wholegrain.training.checkpoints.run_folder import read_recipe
from wholegrain.workflows.curves import compete_at
from wholegrain.workflows.entrants import RUN_FOLDERS, Rules

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("curves")]  # one competition for all
OVERRIDES = ("--optimiser.batch=8", "--optimiser.lr=1e-3", "--optimiser.warmup_steps=1", "--optimiser.decay_share=0.5")


def quiet(sentence):
    pass


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curves")
    dataset = make_dataset(folder / "data", splits=("train", "test"))
    save_model(make_model(dataset), folder / "model")
    return folder


@pytest.fixture(scope="module", autouse=True)
def unmeasured():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer, "matrix_peak", lambda *_: 0.0)  # takes half a second, and only its share would be logged
        yield


@pytest.fixture
def rules(home):
    return Rules(str(home / "model"), overrides=OVERRIDES, tasks=("retrieval",))


@pytest.fixture(scope="module")
def finished(home):
    rules = Rules(str(home / "model"), seeds=(0, 1), overrides=OVERRIDES, tasks=("retrieval",))
    curves, left_out = compete_at((4, 2), ["clip", "negclip"], home / "data", home / "out", rules, quiet)
    assert not left_out
    return home / "out", curves, rules


def stamps(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".safetensors", ".parquet")}


def test_every_point_is_the_run_that_would_have_been_made_alone(finished, home, tmp_path):
    out, curves, _ = finished
    assert curves.budgets == [2, 4]
    for name, seed in (("clip", 0), ("negclip", 1)):
        run = out / f"{name}-{seed}" / "steps-4"
        recipe = read_recipe(run)
        assert (recipe.optimiser.schedule, recipe.optimiser.steps, recipe.seed) == ("wsd", 4, seed)
        train(recipe, Dataset(home / "data"), load_model(str(home / "model")), tmp_path / name, quiet=True, device="cpu")
        same_weights(weights(run), weights(tmp_path / name))


def test_no_split_can_take_the_name_of_a_runs_own_folder(finished):
    out, _, _ = finished
    own = {path.name for path in (out / "clip-0" / "steps-2").iterdir() if path.is_dir()} - {"test"}
    assert "stable" in own
    assert own <= set(RUN_FOLDERS)


def test_the_files_have_every_method_and_budget_with_pairs_and_seconds(finished):
    out, curves, _ = finished
    rows = [row for row in csv.DictReader((out / "curves.csv").open()) if row["figure"] == "image_retrieval_recall@1"]
    assert [(row["method"], row["budget"], row["pairs"]) for row in rows] == [
        ("start", "0", "0"), ("clip", "2", "16"), ("negclip", "2", "16"), ("clip", "4", "32"), ("negclip", "4", "32"),
    ]  # fmt: skip
    assert all(float(row["seconds"]) > 0 and len(row["by_seed"].split()) == 2 for row in rows[1:])
    for before, after in zip(curves.curves[0].points[0].seconds, curves.curves[0].points[1].seconds, strict=True):
        assert 0 < before < after
    assert {row["method"] for row in csv.DictReader((out / "levels.csv").open())} == {"clip", "negclip"}
    assert (out / "curves.html").read_text(encoding="utf-8").count('<svg class="chart"') == 2 * len(curves.columns)
    assert (out / "standings.html").exists()


def test_a_second_call_makes_nothing_anew_and_a_larger_budget_goes_on(finished, home):
    out, curves, rules = finished
    before, text = stamps(out), (out / "curves.csv").read_text()
    compete_at((2, 4), ["clip", "negclip"], home / "data", out, rules, quiet)
    assert stamps(out) == before
    assert (out / "curves.csv").read_text() == text
    longer, _ = compete_at((2, 4, 8), ["clip"], home / "data", out, replace(rules, seeds=(0,)), quiet)
    assert {path: stamp for path, stamp in stamps(out).items() if path in before} == before
    assert longer.curves[0].points[:1][0].seconds == curves.curves[0].points[0].seconds[:1]
    log, shorter = ((out / "clip-0" / f"steps-{steps}" / "metrics.jsonl").read_text().splitlines() for steps in (8, 4))
    assert len(log) == 8
    assert log[:2] == shorter[:2], "taken over, times and all"
    with pytest.raises(UserError, match=r"clip-0/steps-2 was made with optimiser\.lr 0\.001, not 0\.002"):
        compete_at((2,), ["clip"], home / "data", out, replace(rules, overrides=(*OVERRIDES, "--optimiser.lr=0.002")), quiet)


@pytest.mark.parametrize("at", [2, 4])
def test_interrupted_anywhere_the_same_call_goes_on_to_the_same_bits(finished, home, tmp_path, rules, at, monkeypatch):
    """Steps of the budgets 2 and 4: two of the first run, then those with the numbers 1 to 3 of the second one."""
    out, _, _ = finished
    taken, take_step = [], trainer.take_step

    def cut(*given, **options):
        if len(taken) == at:
            raise KilledError
        taken.append(options["step"])
        return take_step(*given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "take_step", cut)
        with pytest.raises(KilledError):
            compete_at((2, 4), ["clip"], home / "data", tmp_path / "out", rules, quiet)
    assert taken == [0, 1, 1, 2, 3][:at]
    curves, _ = compete_at((2, 4), ["clip"], home / "data", tmp_path / "out", rules, quiet)
    for steps in (2, 4):
        same_weights(weights(tmp_path / "out" / "clip-0" / f"steps-{steps}"), weights(out / "clip-0" / f"steps-{steps}"))
        log = (tmp_path / "out" / "clip-0" / f"steps-{steps}" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in log] == list(range(steps))
    assert curves.budgets == [2, 4]


def test_a_smaller_budget_that_shortens_the_warm_up_is_refused(home, tmp_path, rules):
    warm = replace(rules, overrides=(*OVERRIDES[:2], "--optimiser.warmup_steps=2"))
    compete_at((4,), ["clip"], home / "data", tmp_path, warm, quiet)
    with pytest.raises(UserError, match=r"was made with optimiser\.warmup_steps 2, not 1"):
        compete_at((2, 4), ["clip"], home / "data", tmp_path, warm, quiet)


WRONG = {
    "Two of the --budgets are 4": ((4, 2, 4), {}),
    "1 or more, such as .* it has 0": ((0, 2), {}),
    "it has none": ((), {}),
    "--seconds is a training time": ((2,), {"seconds": 3.0}),
    "--budgets sets optimiser.steps itself.*leave --steps out": ((2,), {"overrides": ("--optimiser.steps=3",)}),
    "--budgets sets optimiser.schedule itself": ((2,), {"overrides": ("--optimiser.schedule=cosine",)}),
}


@pytest.mark.parametrize("said", WRONG)
def test_mistakes_are_refused_before_anything_is_written(home, tmp_path, rules, said):
    budgets, changed = WRONG[said]
    with pytest.raises(UserError, match=said):
        compete_at(budgets, ["clip"], home / "data", tmp_path / "out", replace(rules, **changed), quiet)
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_wrote_and_refuses_steps_beside_budgets(home, tmp_path, capsys):
    given = CompeteArguments(
        recipes=("clip",), data=home / "data", model=str(home / "model"), out=tmp_path / "out", budgets=(2,), suite="retrieval", overrides=OVERRIDES
    )
    command(given)
    said = " ".join(capsys.readouterr().out.split())
    assert f"The curves: {tmp_path / 'out' / 'curves.html'}" in said
    assert f"wholegrain report {tmp_path / 'out' / 'clip-0' / 'steps-2'}" in said
    with pytest.raises(UserError, match="leave --steps out"):
        command(replace(given, steps=5))
