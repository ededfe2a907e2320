"""What a recipe costs: counted from what it draws and computes."""

import pytest

from wholegrain.objectives.recipe import load_recipe
from wholegrain.workflows.costs import encoded, loss_work


def test_plain_clip_is_the_unit():
    assert encoded(load_recipe("clip")) == "1 image, 1 text"
    assert loss_work(load_recipe("clip")) == 1.0


def test_five_candidates_an_image_cost_five_times_the_products():
    negclip = load_recipe("negclip")
    assert encoded(negclip) == "1 image, 5 texts"
    assert loss_work(negclip) == pytest.approx(5, rel=0.05)
    assert loss_work(load_recipe("negclip", ["--data.negatives.count=1"])) == pytest.approx(2, rel=0.05)


def test_every_word_with_every_patch_of_every_image_costs_their_product():
    assert loss_work(load_recipe("filip")) > 16 * 49  # at least a product for each word, patch and pair
    assert loss_work(load_recipe("sparc")) < loss_work(load_recipe("filip")) / 4  # pairs alone


def test_views_and_teachers_are_told():
    assert encoded(load_recipe("cosmos")).startswith("8 images, 8 texts; teacher 2")
