"""Recipes: what is packaged, overrides, and messages that name file, key and the closest valid key."""

import tomllib

import pytest

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
        assert load_recipe(name).optimiser == control.optimiser, name
        assert load_recipe(name).data.crop_scale == control.data.crop_scale, name


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
