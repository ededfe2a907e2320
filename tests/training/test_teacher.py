"""Teachers and views: what a teacher follows, what is saved of it, what the student's features get beside them."""

import json
from dataclasses import dataclass
from typing import ClassVar

import gloo
import pytest
import torch
from tiny_runs import KilledError, kill_at
from tiny_training import SIZE, make_dataset, make_model, make_recipe, train
from torch.nn.parallel import DistributedDataParallel

from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.core.contract import LossOutput, unit
from wholegrain.losses.core.gather import sum_over
from wholegrain.objectives.objective import Objective
from wholegrain.objectives.recipe import load_recipe
from wholegrain.objectives.schema import TeacherRecipe, Term
from wholegrain.towers.io import load_model
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.encoder import Encoder
from wholegrain.training.loading.frozen import encode_images_once, encode_texts_once
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.step import StepOptions, make_optimiser, seed_everything, take_step
from wholegrain.training.teacher import Teacher


@dataclass(frozen=True)
class FollowLoss:
    """Squared distance of images and texts to the teacher's, views included: enough to need everything."""

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})

    def __call__(self, image, text, pairing, scale, bias=None, state=None, *, group=None):
        pairs = [(view.pooled_BD, view.teacher.pooled_BD) for view in (image, *image.views) if view.teacher is not None]
        pairs.append((text.pooled_ND, text.teacher.pooled_ND))
        assert all(not theirs.requires_grad for _, theirs in pairs)
        total = sum((unit(own) - unit(theirs)).square().sum() for own, theirs in pairs)
        return LossOutput(total / sum_over(torch.tensor(float(len(image.pooled_BD))), group) + 0 * scale)


@dataclass(frozen=True)
class FollowViewsLoss(FollowLoss):
    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "views"})


def recipe_of(loss="FollowLoss", *overrides, kind="ema", momentum=0.9, **teacher):
    settings = {"kind": kind, "momentum": momentum, **teacher}
    table = {
        "terms": [{"loss": "clip"}, {"loss": f"test_teacher:{loss}", "name": "follow", "weight": 2.0}],
        "teacher": settings,
        "optimiser": {"batch": 8, "lr": 1e-2, "steps": 8, "warmup_steps": 1, "precision": "fp32"},
        "saving": {"every": 3},
        "data": {"crop_scale": [0.5, 1.0]},
    }
    return load_recipe(table, overrides)


VIEWS = ("--data.views", "[{count = 1, crop_scale = [0.5, 1.0]}, {count = 2, crop_scale = [0.1, 0.4]}]")


@pytest.fixture(autouse=True)
def _importable(monkeypatch, request):
    monkeypatch.syspath_prepend(str(request.path.parent))


def run(dataset, folder, recipe, model=None, **kwargs):
    return train(recipe, dataset, model or make_model(dataset), folder, device="cpu", quiet=True, **kwargs)


def batch_of(dataset, recipe, model, step=0):
    names = names_of(dataset, recipe.data)
    samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, 0)
    plan = Plan(dataset.keys("train"), 8, 0)
    return next(iter(make_loader(samples, PlanSampler(plan, step, step + 1), model.tokenizer, names)))


def test_an_ema_teacher_is_the_average_of_every_step(dataset):
    model, other = make_model(dataset), make_model(dataset, seed=5)
    model.text_tower.tune("none")
    teacher = Teacher(model, TeacherRecipe("ema", 0.75))
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        with torch.no_grad():
            for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
                if mine.requires_grad:
                    mine.add_(theirs)
        teacher.follow(model)
        for name, p in model.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * p.detach()
    for name, p in teacher.model.named_parameters():
        torch.testing.assert_close(p, expected[name])
    frozen = (teacher.model.image_frozen, teacher.model.text_frozen)
    assert frozen == (False, True), "an evaluation would keep the features of a tower that moves"
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in teacher.model.parameters()}
    assert shared == {p.data_ptr() for p in model.text_tower.parameters()}, "what is frozen is shared, nothing else"


def test_a_frozen_teacher_stays_where_it_was(dataset):
    model = make_model(dataset)
    teacher = Teacher(model, TeacherRecipe("frozen"))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    teacher.follow(model)
    assert all(torch.equal(p, start[name]) for name, p in teacher.model.named_parameters())


def test_the_teacher_stands_in_eval_mode_whatever_the_student_does(dataset):
    model = make_model(dataset).train()
    teacher = Teacher(model, TeacherRecipe("ema"))
    model.eval()
    model.train()
    assert not any(module.training for module in teacher.model.modules())


def test_features_of_teacher_and_views_stand_beside_the_students(dataset):
    recipe, model = recipe_of("FollowViewsLoss", *VIEWS, views=2), make_model(dataset)
    other = make_model(dataset, seed=3)
    encoder, batch = Encoder(model, teacher=Teacher(other, TeacherRecipe("frozen", views=2))), batch_of(dataset, recipe, model)
    assert len(batch.views) == 4
    image, text, _, _ = encoder(batch, frozenset({"teacher", "views", "patches"}))
    assert [view.teacher is not None for view in (image, *image.views)] == [True, True, False, False]
    for look, seen in zip(batch.views, (image, *image.views), strict=True):
        alone = model.encode_images(look.pixels_BCHW, frozenset({"patches"}))
        torch.testing.assert_close(seen.pooled_BD, alone.pooled_BD, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen.patches_BPD, alone.patches_BPD, rtol=1e-4, atol=1e-5)
        if seen.teacher is not None:
            torch.testing.assert_close(
                seen.teacher.pooled_BD, other.encode_images(look.pixels_BCHW).pooled_BD, rtol=1e-4, atol=1e-5
            )
            assert not seen.teacher.pooled_BD.requires_grad
    said = other.encode_texts(batch.tokens_NL, batch.length_N).pooled_ND
    torch.testing.assert_close(text.teacher.pooled_ND, said, rtol=1e-4, atol=1e-5)
    plain, read, _, _ = encoder(batch, frozenset())
    assert (plain.teacher, plain.views, read.teacher) == (None, (), None)


def test_selection_takes_teacher_and_views_along():
    pooled = torch.arange(6.0).view(3, 2)
    image = ImageFeatures(
        pooled, teacher=ImageFeatures(pooled + 10), views=(ImageFeatures(pooled + 20, teacher=ImageFeatures(-pooled)),)
    )
    chosen = image.select(torch.tensor([2, 0]))
    assert chosen.teacher.pooled_BD.tolist() == [[14, 15], [10, 11]]
    assert chosen.views[0].pooled_BD[0].tolist() == [24, 25]
    assert chosen.views[0].teacher.pooled_BD[0].tolist() == [-4, -5]
    text = TextFeatures(pooled, teacher=TextFeatures(pooled + 1)).select(torch.tensor([False, True, False]))
    assert text.teacher.pooled_ND.tolist() == [[3, 4]]


def test_views_are_functions_of_seed_and_position(dataset):
    recipe, model = recipe_of("FollowViewsLoss", *VIEWS, views=2), make_model(dataset)
    one, again, later = (batch_of(dataset, recipe, model, step) for step in (1, 1, 4))
    assert all(torch.equal(a.pixels_BCHW, b.pixels_BCHW) for a, b in zip(one.views, again.views, strict=True))
    crops = torch.stack([view.crops_B4 for view in one.views])
    share = (crops[..., 2] - crops[..., 0]) * (crops[..., 3] - crops[..., 1]) / SIZE**2
    assert share[:2].min() > 0.4
    assert share[2:].max() < 0.5
    assert len(crops.flatten(0, 1).unique(dim=0)) > 20
    assert not torch.equal(later.views[2].crops_B4, one.views[2].crops_B4)
    first = batch_of(dataset, recipe_of(), model, 1)
    assert torch.equal(first.views[0].pixels_BCHW, one.views[0].pixels_BCHW), "further views do not move the first"


def test_cached_features_serve_the_teacher_too(dataset):
    model, recipe = make_model(dataset), recipe_of()
    for tower in (model.image_tower, model.text_tower):
        tower.tune("none")
    model.eval()
    teacher = Teacher(model, TeacherRecipe("ema", 0.5))
    with torch.no_grad():
        model.head.image.weight.mul_(3)
    keys = dataset.keys("train")
    images = encode_images_once(model, dataset, keys, frozenset(), "fp32", say=lambda _: None)
    batch = batch_of(dataset, load_recipe(recipe_table(recipe), ["--data.crop_scale", "[1.0, 1.0]"]), model)
    texts = encode_texts_once(model, batch.texts, frozenset(), "fp32", say=lambda _: None)
    needs = frozenset({"teacher"})
    live, cached = Encoder(model, teacher=teacher)(batch, needs), Encoder(model, images, texts, teacher)(batch, needs)
    torch.testing.assert_close(live[0].teacher.pooled_BD, cached[0].teacher.pooled_BD, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(live[0].teacher.pooled_BD * 3, live[0].pooled_BD, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(live[1].teacher.pooled_ND, cached[1].teacher.pooled_ND, rtol=1e-4, atol=1e-5)


def recipe_table(recipe):
    from wholegrain.objectives.recipe import to_table

    return to_table(recipe)


# ---- runs -------------------------------------------------------------------------------------------------------------------


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["loss/follow"]) for line in found]


@pytest.mark.parametrize(
    ("loss", "teacher", "more"),
    [
        ("FollowLoss", {"kind": "ema"}, ()),
        ("FollowViewsLoss", {"kind": "ema", "views": 2, "keep": "teacher"}, VIEWS),
        ("FollowLoss", {"kind": "frozen"}, ("--model.tune_text", "none")),
    ],
)
def test_an_interrupted_run_with_a_teacher_goes_on_bit_for_bit(dataset, tmp_path, loss, teacher, more):
    recipe = recipe_of(loss, *more, **teacher)
    run(dataset, tmp_path / "whole", recipe)
    with pytest.raises(KilledError):
        run(dataset, tmp_path / "cut", recipe, on_step=kill_at(4))
    run(dataset, tmp_path / "cut", recipe, load_model(tmp_path / "cut"), resume=True)
    assert lines(tmp_path / "whole") == lines(tmp_path / "cut")
    assert lines(tmp_path / "whole")[-1][2] > 1e-6, "student and teacher differ, or this shows nothing"
    one, other = (load_model(tmp_path / name / "model").state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    states = [checkpoint.load_newest(tmp_path / name / "checkpoints")[0].tensors for name in ("whole", "cut")]
    assert any(name.startswith("teacher/") for name in states[0])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_kept_model_is_the_one_asked_for(dataset, tmp_path):
    seen = []

    def evaluate(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"score": float(len(seen))}

    models = {}
    for keep in ("student", "teacher"):
        seen.clear()
        models[keep] = load_model(run(dataset, tmp_path / keep, recipe_of(keep=keep), evaluate=evaluate)).state_dict()
        assert all(torch.equal(value, models[keep][name]) for name, value in seen[-1].items())
    saved, _ = checkpoint.load_newest(tmp_path / "teacher" / "checkpoints")
    for name, value in models["teacher"].items():
        assert torch.equal(value, saved.tensors[f"teacher/{name}"])
        assert torch.equal(models["student"][name], saved.tensors[f"model/{name}"])
    assert not torch.equal(models["teacher"]["head.image.weight"], models["student"]["head.image.weight"])


def test_what_is_missing_is_said(dataset, tmp_path):
    with pytest.raises(UserError, match=r'"follow".*needs "teacher"; set teacher.kind to "ema" or "frozen"'):
        run(dataset, tmp_path / "a", recipe_of(kind="none"))
    with pytest.raises(UserError, match=r'"follow".*needs "views"; ask for further crops'):
        run(dataset, tmp_path / "b", recipe_of("FollowViewsLoss"))
    with pytest.raises(UserError, match="mean"):
        recipe_of(kind="mean")
    with pytest.raises(UserError, match="keep"):
        recipe_of(kind="frozen", keep="teacher")
    with pytest.raises(UserError, match="momentum"):
        recipe_of(momentum=1.5)
    run(dataset, tmp_path / "run", make_recipe("clip", "--optimiser.steps", "2"))
    saved, _ = checkpoint.load_newest(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="does not fit the teacher"):
        Teacher(make_model(dataset), TeacherRecipe("ema")).load_state_dict(
            {k.removeprefix("teacher/"): v for k, v in saved.tensors.items() if k.startswith("teacher/")}
        )


STEPS = 3


def steps_here(rank, group, world, data):
    """This process's part of a few steps with a teacher and views; losses, and final weights of both."""
    seed_everything(0)
    dataset, recipe = Dataset(data), recipe_of("FollowViewsLoss", *VIEWS, views=2)
    model = make_model(dataset)
    names = names_of(dataset, recipe.data)
    samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, 0)
    loader = make_loader(samples, PlanSampler(Plan(dataset.keys("train"), 8, 0), 0, STEPS, rank, world), model.tokenizer, names)
    teacher = Teacher(model, recipe.teacher)
    encoder = Encoder(model, teacher=teacher)
    wrapped = encoder if group is None else DistributedDataParallel(encoder, process_group=group)
    terms = (recipe.terms[0], Term(f"{__file__}:FollowViewsLoss", 2.0, name="follow"))
    objective, optimiser = Objective(terms), make_optimiser(model, recipe.optimiser)
    seen = []
    for step, batch in enumerate(loader):
        outcome = take_step(wrapped, objective, optimiser, batch, step=step, lr=1e-2, options=StepOptions(1.0, group=group))
        teacher.follow(model)
        seen += [outcome.loss, outcome.grad_norm]
    return seen, {name: value.tolist() for name, value in teacher.state_dict().items()}


@pytest.mark.slow
def test_two_processes_have_the_teacher_of_one(tmp_path):
    dataset = make_dataset(tmp_path / "data", splits=("train",))
    alone, teacher = steps_here(0, None, 1, dataset.folder)
    both = gloo.run(2, steps_here, [(2, dataset.folder)] * 2)
    assert both[0] == both[1]
    torch.testing.assert_close(torch.tensor(both[0][0]), torch.tensor(alone), rtol=1e-4, atol=1e-5)
    for name, value in teacher.items():
        torch.testing.assert_close(torch.tensor(both[0][1][name]), torch.tensor(value), rtol=1e-3, atol=1e-4, msg=name)
