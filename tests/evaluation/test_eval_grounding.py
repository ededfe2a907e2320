"""Grounding: an oracle, its opposite, degenerate models, masks on the patch grid."""

import itertools

import numpy as np
import pytest
import torch
from eval_fakes import FakeDataset, FakeModel, record, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from wholegrain.data.record import Record, Region
from wholegrain.errors import UserError
from wholegrain.evaluation.features.regions import (
    centre_prior,
    chance_overlap,
    decode_mask,
    object_patches,
    region_cover,
    thresholded,
)
from wholegrain.evaluation.tasks.grounding import grounding

GRID = 4
SIZE = 32


def runs_of(mask):
    flat = mask.ravel().astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    bounds = [0, *edges, len(flat)]
    return tuple(b - a for a, b in itertools.pairwise(bounds))


def pictures(count=12, masks=True, seed=0):
    """Each picture has two objects, each on one random patch, with a phrase of its own words."""
    rng, records, places = np.random.default_rng(seed), [], {}
    for n in range(count):
        regions = []
        for name, cell in zip("ab", rng.permutation(GRID * GRID)[:2], strict=True):
            y, x = divmod(int(cell), GRID)
            box = (8.0 * x, 8.0 * y, 8.0 * x + 8, 8.0 * y + 8)
            mask = np.zeros((SIZE, SIZE), bool)
            mask[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = True
            regions.append((box, f"thing {name}{n}", runs_of(mask) if masks else ()))
            places[f"thing {name}{n}"] = int(cell)
        records.append(record(n, [f"a picture {n}"], regions=regions, size=(SIZE, SIZE)))
    return FakeDataset(records), places


def model_of(data, patch_phrase):
    """Patch p of a picture is the vector of the phrase that ``patch_phrase`` names for it, else of nothing in particular."""

    def image_of(key):
        patches = torch.stack([vector(patch_phrase(data.record(key), p) or f"{key} ground {p}", 256) for p in range(GRID * GRID)])
        return {"pooled_BD": patches.mean(0), "patches_BPD": patches, "grid": (GRID, GRID)}

    return FakeModel(image_of, lambda text: vector(text, 256))


def on_grid(places, other=False):
    def find(rec, p):
        names = [r.phrase for r in rec.regions]
        for name, swapped in zip(names, names[::-1], strict=True):
            if places[name] == p:
                return swapped if other else name
        return None

    return find


@pytest.mark.parametrize("masks", [True, False])
def test_an_oracle_finds_its_own_object_and_never_the_other(masks):
    data, places = pictures(masks=masks)
    found = grounding(model_of(data, on_grid(places)), data).metrics
    assert found["hit_own"] == 1
    assert found["hit_other"] == 0
    assert found["present_beats_absent"] == 1
    assert found["area"] == 1 / 16


def test_a_model_that_points_at_the_other_object_is_found_out():
    data, places = pictures()
    found = grounding(model_of(data, on_grid(places, other=True)), data).metrics
    assert found["hit_own"] == 0
    assert found["hit_other"] == 1


def test_overlap_of_an_exact_map_is_one():
    data, places = pictures()

    def image_of(key):
        rec = data.record(key)
        patches = torch.zeros(GRID * GRID, 64)
        for n, region in enumerate(rec.regions):
            patches[places[region.phrase], n] = 1
        patches[(patches == 0).all(1), 2] = 1
        return {"pooled_BD": patches.mean(0), "patches_BPD": patches, "grid": (GRID, GRID)}

    def text_of(text):
        return torch.eye(64)["ab".index(text.split()[1][0])] if text.startswith("thing") else torch.ones(64)

    found = grounding(FakeModel(image_of, text_of), data)
    assert found.metrics["iou_own"] == 1
    assert found.metrics["iou_other"] == 0
    assert found.figure("hit_own").shuffled < 0.5


def test_a_constant_model_scores_the_area():
    data, _ = pictures()
    model = FakeModel(
        lambda key: {"pooled_BD": torch.ones(8), "patches_BPD": torch.ones(GRID * GRID, 8), "grid": (GRID, GRID)},
        lambda text: torch.ones(8),
    )
    result = grounding(model, data)
    for name in ("hit_own", "hit_other", "iou_own", "iou_other", "absent_hit", "present_beats_absent"):
        assert result.figure(name).value == pytest.approx(result.figure(name).chance), name


def test_random_models_and_shuffled_images_score_chance():
    data, _places = pictures(200)
    random = grounding(model_of(data, lambda rec, p: None), data)
    for name in ("hit_own", "hit_other", "iou_own", "absent_hit", "present_beats_absent"):
        assert random.figure(name).value == pytest.approx(random.figure(name).chance, abs=0.04), name
    assert random.figure("hit_own").shuffled == pytest.approx(1 / 16, abs=0.04)


def test_items_keep_maps_and_phrases_and_absent_ones_are_absent():
    data, places = pictures()
    rows = grounding(model_of(data, on_grid(places)), data).items.to_pylist()
    assert len(rows) == 24
    for row in rows:
        assert len(row["map"]) == len(row["cover"]) == 16
        assert int(np.argmax(row["map"])) == row["best"] == places[row["phrase"]]
        assert row["absent"] not in [r.phrase for r in data.record(row["cluster"]).regions]


def test_no_patches_or_no_regions_is_said():
    data, _ = pictures()
    with pytest.raises(UserError, match="patch"):
        grounding(FakeModel(vector, vector), data)
    with pytest.raises(UserError, match="two regions"):
        grounding(FakeModel(vector, vector), FakeDataset([record(0, ["x"])]))


def one_region(box=(0, 0, 1, 1), mask=(), size=(8, 8)):
    return Record("k", "k.png", size, regions=(Region(box, "x", mask),))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**20))
def test_cover_is_the_exact_area(width, height, rows, columns, seed):
    """Against pixels cut into ``rows x columns`` equal parts each, where no patch border cuts a part."""
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    rec = one_region(mask=runs_of(mask), size=(width, height))
    found = region_cover(rec, 0, (0.0, 0.0, float(width), float(height)), (rows, columns)).reshape(rows, columns)
    fine = mask.repeat(rows, 0).repeat(columns, 1).astype(float)
    assert np.allclose(found, fine.reshape(rows, height, columns, width).mean((1, 3)))


def test_cover_under_a_crop_and_for_boxes():
    mask = np.zeros((8, 16), bool)
    mask[:, 4:8] = True  # the left half of the middle square
    rec = one_region(mask=runs_of(mask), size=(16, 8))
    assert region_cover(rec, 0, (4.0, 0.0, 12.0, 8.0), (1, 2)).tolist() == [1.0, 0.0]
    assert region_cover(rec, 0, (8.0, 0.0, 16.0, 8.0), (1, 2)).tolist() == [0.0, 0.0]
    box = one_region(box=(1.0, 0.0, 3.0, 4.0))
    assert region_cover(box, 0, (0.0, 0.0, 8.0, 8.0), (2, 2)).tolist() == [0.5, 0.0, 0.0, 0.0]


def test_masks():
    assert decode_mask((0, 1, 3), (2, 2)).tolist() == [[True, False], [False, False]]
    with pytest.raises(UserError, match="region 0"):
        region_cover(one_region(mask=(3, 4)), 0, (0.0, 0.0, 8.0, 8.0), (2, 2))
    assert object_patches(np.array([0.1, 0.05, 0.0, 0.04])).tolist() == [True, True, False, False]
    assert not object_patches(np.zeros(3)).any()
    assert thresholded(np.array([0.0, 0.4, 1.0])).tolist() == [False, False, True]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 6), st.integers(0, 6))
def test_chance_overlap_is_the_mean_over_random_maps(marked, area):
    rng, mask = np.random.default_rng(0), np.arange(6) < area
    draws = rng.permuted(np.tile(np.arange(6) < marked, (4000, 1)), axis=1)
    mean = ((draws & mask).sum(1) / np.maximum((draws | mask).sum(1), 1)).mean()
    assert chance_overlap(marked, area, 6) == pytest.approx(mean, abs=0.03)


def test_the_centre_prior_peaks_in_the_middle():
    assert centre_prior((3, 5)).argmax() == 7
    assert (centre_prior((2, 2)) == centre_prior((2, 2))[0]).all()
