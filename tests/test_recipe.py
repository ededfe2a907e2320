"""Recipes: what is packaged, overrides, and messages that name file, key and the closest valid key."""

import tomllib
from dataclasses import replace

import pytest

from wholegrain.enrich.captions.prompting import load_prompts
from wholegrain.errors import UserError
from wholegrain.objectives.objective import Objective
from wholegrain.objectives.recipe import load_recipe, recipe_names, selects, to_table, to_toml

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
        (["--optimiser.lrr", "1"], r'"optimiser\.lrr" in clip.*"lr"'),
        (["--optimser.lr", "1"], r'"optimser".*"optimiser"'),
        (["--optimiser.lr", "fast"], r"optimiser\.lr.*'fast' is not a number"),
        (["--data.negatives.count", "1.5"], r"data\.negatives\.count.*1\.5 is not a whole number"),
        (["--optimiser.schedule", "cosin"], r'cosin.*"cosine"'),
        (["--terms.clp.weight", "1"], r'terms\.clp.*"clip"'),
        (["--data.captions", "[{ cout = 1 }]"], r'data\.captions\.cout.*"count"'),
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
    with pytest.raises(UserError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "a.toml").write_text("terms = [")
    with pytest.raises(UserError, match=r"a\.toml is not valid TOML"):
        load_recipe(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_text("[[terms]]\nweight = 2.0\n")
    with pytest.raises(UserError, match=r'"terms\.loss" is missing in .*b\.toml'):
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
