"""Recipes: what is packaged, overrides, and messages that name file, key and the closest valid key."""

import tomllib
from dataclasses import replace

import pytest
from damage import damaged_json, met_badly

from wholegrain.cli.arguments import split_overrides
from wholegrain.enrich.captions.prompting import load_prompts
from wholegrain.errors import UserError
from wholegrain.objectives.objective import Objective
from wholegrain.objectives.recipe import load_recipe, recipe_names, to_table, to_toml
from wholegrain.objectives.schema import HEADS, selects
from wholegrain.towers.heads.registry import KINDS

PUBLISHED = {"clip", "siglip", "negclip", "ce_clip", "sparc", "holistic", "o2m", "text_conditioned", "wholegrain"}
PUBLISHED |= {"filip", "pacl", "gloria", "mgca", "flair", "llip", "dreamlip", "sparc_images"}


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_load_resolve_and_come_back(name, tmp_path):
    recipe = load_recipe(name)
    Objective(recipe.terms)
    assert recipe.paper
    assert recipe.name == name
    (tmp_path / "r.toml").write_text(to_toml(recipe))
    assert load_recipe(tmp_path / "r.toml") == recipe == load_recipe(to_table(recipe))


def test_the_published_methods_are_there():
    assert set(recipe_names()) >= PUBLISHED


def test_methods_differ_from_their_control_in_the_method_alone():
    control = load_recipe("clip")
    for name in sorted(PUBLISHED):
        assert replace(load_recipe(name).optimiser, head_lr=1.0) == control.optimiser, name  # of what the control does not have
        assert load_recipe(name).data.crop_scale == control.data.crop_scale, name


@pytest.mark.parametrize("name", ["holistic", "holistic_mlp", "wholegrain"])
def test_every_role_that_enrich_writes_has_a_branch_and_every_branch_a_role(name):
    recipe = load_recipe(name)
    (term,) = [term for term in recipe.terms if term.loss == "many_to_many"]
    bound = [set(entry.split("|")) for entry in term.settings["roles"]]
    written = {prompt.role for prompt in load_prompts()}
    assert len(bound) == recipe.model.branches
    assert written | {"web", "overview"} <= set().union(*bound)
    assert all(roles & written for roles in bound)
    drawn = {role for role in written for draw in recipe.data.captions if selects(draw.roles, role)}
    assert drawn == written


def test_overrides_by_dotted_name():
    recipe = load_recipe(
        "ce_clip",
        [
            "--optimiser.lr",
            "1e-3",
            "--data.negatives.count=2",
            "--terms.cmr.weight",
            "0.3",
            "--terms.1.settings.variant",
            "paper",
        ],
    )
    assert (recipe.optimiser.lr, recipe.data.negatives.count) == (1e-3, 2)
    assert {term.name: term.weight for term in recipe.terms} == {"negclip": 1.0, "imc": 0.1, "cmr": 0.3}
    assert recipe.terms[1].settings == {"variant": "paper"}
    several = load_recipe("clip", ["--data.captions", '[{ roles = ["web"], count = 2 }, { roles = ["style"] }]'])
    assert [draw.count for draw in several.data.captions] == [2, 1]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (["--optimiser.lrr", "1"], r'clip has .*"optimiser\.lrr".*"lr"'),
        (["--optimser.lr", "1"], r'"optimser".*"optimiser"'),
        (["--optimiser.lr", "fast"], r"optimiser\.lr.*'fast' is not a number"),
        (["--data.negatives.count", "1.5"], r"data\.negatives\.count.*1\.5 is not a whole number"),
        (["--optimiser.schedule", "cosin"], r'cosin.*"cosine"'),
        (["--terms.clp.weight", "1"], r'terms\.clp.*"clip"'),
        (["--data.captions", "[{ cout = 1 }]"], r'data\.captions\.0\.cout.*"count"'),
        (["--data.crop_scale", "[0.9, 0.5]"], r"crop_scale"),
        (["--model.branches", "3"], r"branches = 3"),
        (["--optimiser.lr"], r"--optimiser\.lr has no value"),
        (["--optimiser.lr.x", "1"], r"--optimiser\.lr goes through"),
    ],
)
def test_wrong_overrides_are_explained(override, said):
    with pytest.raises(UserError, match=said):
        load_recipe("clip", override)


def test_wrong_files_are_explained(tmp_path):
    with pytest.raises(UserError, match=r'"ce_clp".*"ce_clip"'):
        load_recipe("ce_clp")
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "a.toml").write_text("terms = [")
    with pytest.raises(UserError, match=r"a\.toml is not valid TOML"):
        load_recipe(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_text("[[terms]]\nweight = 2.0\n")
    with pytest.raises(UserError, match=r'b\.toml has no key "terms\.0\.loss"'):
        load_recipe(tmp_path / "b.toml")
    with pytest.raises(UserError, match="different names"):
        load_recipe({"terms": [{"loss": "clip"}, {"loss": "clip"}]})


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        *((name, "ce_clip") for name in ("CE-CLIP", "ceclip", "Ce_Clip", "ce clip", "CE_CLP")),
        ("FSC-CLIP", "fsc_clip"),
        ("scenes/CE-CLIP", "scenes/ce_clip"),
    ],
)
def test_a_recipe_is_found_across_its_spellings(wrong, right):
    with pytest.raises(UserError, match=f'did you mean "{right}"'):
        load_recipe(wrong)


@pytest.mark.parametrize(
    ("override", "right"),
    [
        (["--Optimiser.lr", "1"], "optimiser"),
        (["--optimiser.WarmupSteps", "1"], "warmup_steps"),
        (["--model.head", "SPARC"], "sparc"),
        (["--terms.CLIP.weight", "1"], "clip"),
    ],
)
def test_every_name_is_found_across_its_spellings(override, right):
    with pytest.raises(UserError, match=f'did you mean "{right}"'):
        load_recipe("clip", override)


def test_resolved_toml_writes_every_default():
    table = tomllib.loads(to_toml(load_recipe("clip")))
    assert table["optimiser"]["eps"] == 1e-6
    assert table["data"]["negatives"]["dose"] == 1.0
    assert table["saving"]["keep"] == 2


def test_selects():
    assert [selects(["web", "style"], role) for role in ("web", "detail")] == [True, False]
    assert selects([], "web")
    assert selects(["any"], "x")
    assert not selects(["any", "-x"], "x")


def test_wrong_values_of_recipes_give_a_sentence_or_a_recipe():
    whole, bad = to_table(load_recipe("wholegrain")), []
    for n, (what, value) in enumerate(damaged_json(whole)):
        if n % 5 == 0 and isinstance(value, dict) and "nested" not in what:
            bad.append(met_badly(what, lambda value=value: Objective(load_recipe(value).terms)))
    assert len(bad) > 100
    assert not any(bad), "\n".join(filter(None, bad))
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(UserError, match="nested too deeply"):
        load_recipe({**whole, "seed": nested})


@pytest.mark.parametrize(
    "override",
    [
        "optimiser.epochs=inf", "optimiser.lr=nan", "optimiser.lr=inf", "optimiser.lr=1e9", "optimiser.warmup_steps=-1", "optimiser.batch=0",
        "optimiser.batch=1000000000000", "optimiser.steps=-5", "optimiser.grad_clip=nan", "seed=-1", "terms.clip.weight=nan",
        "terms.clip.weight=-1.0", "terms.clip.weight=1e300", "terms.clip.roles=[1]", "terms.clip.roles=web", "model.lora.rank=100000",
        "model.lora.alpha=inf", "data.negatives.count=1000000000", "data.views=[{count=1000000000}]", "teacher.momentum=nan",
        "saving.keep=1000000000000000000000",
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_by_key(override):
    key = override.partition("=")[0].removeprefix("terms.clip.").rpartition(".")[2]
    with pytest.raises(UserError, match=rf"The recipe clip has a wrong value at .*{key}"):
        load_recipe("clip", [f"--{override}"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label_smoothing": "much"}, r"label_smoothing.*'much' is not a number"),
        ({"label_smoothing": None}, "label_smoothing"),
        ({"label_smoothing": 5}, "label_smoothing is 5; it must be from 0 to 1"),
        ({"duplicates": "ignor"}, r'duplicates.*\'ignor\' is not one of.*did you mean "ignore"'),
        ({"duplicates": ["ignore"]}, "duplicates"),
        ({"label_smooting": 0.1}, 'no setting "label_smooting".*"label_smoothing"'),
    ],
)
def test_settings_of_a_loss_have_its_types(settings, words):
    with pytest.raises(UserError, match=words):
        Objective(load_recipe({"terms": [{"loss": "clip", "settings": settings}]}).terms)
    assert load_recipe({"terms": [{"loss": "many_to_many", "settings": {"roles": ["a", "b"]}}]}).terms


def test_a_loss_of_ones_own_may_have_settings_of_any_type(tmp_path):
    (tmp_path / "own.py").write_text(
        "from dataclasses import dataclass\nfrom pathlib import Path\n@dataclass\nclass Own:\n"
        "    place: Path | None = None\n    tables: 'list[Unknown] | None' = None\n    needs = frozenset()\n    def __call__(self): ...\n"
    )
    term = {"loss": f"{tmp_path / 'own.py'}:Own", "settings": {"place": "here", "tables": [1]}}
    Objective(load_recipe({"terms": [term]}).terms)


def test_an_option_without_a_value_does_not_swallow_the_next_one():
    rest, dotted = split_overrides(["--optimiser.recompute", "--data", "photos", "--optimiser.lr", "-1", "--saving.asynchronous"])
    assert rest == ["--data", "photos"]
    assert dotted == ["--optimiser.recompute", "true", "--optimiser.lr", "-1", "--saving.asynchronous", "true"]
    recipe = load_recipe("clip", ["--optimiser.recompute", "true", "--seed=3"])
    assert recipe.optimiser.recompute
    with pytest.raises(UserError, match=r'"optimiser\.lr": True is not a number'):
        load_recipe("clip", split_overrides(["--optimiser.lr", "--data", "photos"])[1])


def test_a_recipe_may_ask_for_every_head_and_no_other():
    assert set(HEADS) == set(KINDS)
