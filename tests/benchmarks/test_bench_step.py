"""The bench of training steps: its data, its rivals in turn, its arithmetic; and once the whole command."""

import json
import sys

import pytest

from benchmarks.step.__main__ import StepArguments, pairs_to_run, step
from benchmarks.step.count import recipe_work
from benchmarks.step.data import ROLES, captions_of, made_captions, write_data
from benchmarks.step.measure import Pair, Setting, StepCosts, Turns
from wholegrain.errors import MachineError, UserError

ANSWERS = """
import json, sys
print(json.dumps({"texts": 3}), flush=True)
for place, line in enumerate(sys.stdin):
    if place == 2:
        print("out of steps", file=sys.stderr)
        break
    print(json.dumps({"seconds": place + 1.0}), flush=True)
"""
SMALL = "ViT-S-32-alt"


def test_a_rival_answers_step_by_step_and_its_end_is_told(tmp_path):
    rival = Turns([sys.executable, "-c", ANSWERS], {}, tmp_path / "log")
    assert rival.facts == {"texts": 3}
    assert [rival.step()["seconds"] for _ in range(2)] == [1.0, 2.0]
    with pytest.raises(MachineError, match="out of steps"):
        rival.step()
    rival.close()


def test_ratios_and_shares_are_taken_turn_by_turn():
    pairs = [Pair("a", "b", [(1.0, 2.0), (2.0, 3.0)], [8.0, 4.0]), Pair("c", "a", [(5.0, 4.0)], [2.0])]
    assert pairs[0].ratios == [2.0, 1.5]
    costs = StepCosts(Setting("m", 1, "fp32", "cpu", 2, False, 0), pairs, {}, {"a": (8.0, 16.0)}, {}, (9.0, 9), {})
    assert costs.median_seconds("a") == 2.0
    assert costs.peak_share("a", False) == 1.0  # of 1, 1 and 1
    assert costs.peak_share("a", True) == 2.0


def test_every_picture_has_five_captions_with_negatives_of_their_length(tmp_path):
    captions = made_captions(30)
    assert len(set(captions)) == 30
    dataset = write_data(tmp_path / "data", captions, 6, 32)
    for record in dataset.records("train"):
        assert [caption.role for caption in record.captions] == list(ROLES)
        for caption in record.captions:
            negatives = dataset.negatives[record.key, caption.id]
            assert len(negatives) == 4
            assert all(sorted(row.text.split()) == sorted(caption.text.split()) for row in negatives)
    assert set(captions_of(dataset, 30)) == set(captions)
    with pytest.raises(UserError, match="35 distinct captions are needed for 7 images and there are 30; set --batch to 6 or less"):
        write_data(tmp_path / "more", captions, 7, 32)


def test_padding_is_work(tmp_path):
    data = write_data(tmp_path / "data", made_captions(40), 8, 32).folder
    as_it_is, padded = (recipe_work("clip", data, SMALL, 4, pad) for pad in (False, True))
    assert 1.2 * as_it_is < padded
    with_negatives = recipe_work("ce_clip", data, SMALL, 4, False)
    assert as_it_is < with_negatives < padded  # five texts at their length are less than one at the context


def test_pairs_are_chosen_by_number(tmp_path):
    assert len(pairs_to_run(tmp_path)) == len(pairs_to_run(None)) + 2
    assert [(ours.name, other.name) for ours, other in pairs_to_run(None, ("6",))] == [("sparc", "clip")]
    with pytest.raises(UserError, match="--only 9 is no pair"):
        pairs_to_run(None, ("9",))
    with pytest.raises(UserError, match="has no folder open_clip_train"):
        step(StepArguments(source=tmp_path))


@pytest.mark.slow
def test_the_command_measures_both_trainers(tmp_path, capsys, monkeypatch):
    pytest.importorskip("open_clip_train.main", exc_type=ImportError)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    step(StepArguments(model=SMALL, batch=2, rounds=1, only=("1",), out=tmp_path / "out.json", device="cpu", precision="fp32"))
    costs = json.loads((tmp_path / "out.json").read_text())
    [[ours, theirs]] = costs["pairs"][0]["seconds"]
    assert ours > 0 < theirs
    assert costs["texts"] == {"clip": 2, "open_clip, defaults": 2}
    assert costs["flops"]["clip"][0] < costs["flops"]["clip"][1] == costs["flops"]["open_clip, defaults"][0]
    assert "times as fast" in capsys.readouterr().out
    assert not list((tmp_path / "temporary").iterdir())
