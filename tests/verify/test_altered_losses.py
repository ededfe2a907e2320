"""``wholegrain verify`` finds every slip that is made in a loss of the package, says what it is, and calls no faithful copy wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from altered_losses import BREAKS, FOLDER, SLIPS, source

from wholegrain.objectives.resolve import class_name, packaged
from wholegrain.verify import Differences, verify
from wholegrain.verify.answers import steps
from wholegrain.verify.cases import near_ids
from wholegrain.verify.settings import parse_settings
from wholegrain.verify.subject import make_subject

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("altered")]  # one pool of processes for all


def verified(name, folder, checks=None, like=True):
    slip, file = SLIPS[name], folder / "mine.py"
    file.write_text(source(name), encoding="utf-8")
    model = f"{slip.loss} {slip.settings}".strip() if like else None
    return verify(f"{file}:{class_name(slip.loss)}", parse_settings(slip.settings.split()), like=model, checks=checks)


@pytest.mark.parametrize("name", SLIPS)
def test_every_slip_is_found_in_a_loss_that_says_what_it_is(name, tmp_path):
    checks = {"reference"} | ({BREAKS[name]} & {"processes", "state"} if name in BREAKS else set())
    verdict = verified(name, tmp_path, checks)
    assert verdict.failed
    for finding in verdict.findings:
        if finding.status == "FAIL":
            assert finding.said
            assert finding.likely
            assert f"{finding.check}: {finding.said}" in verdict.sentence or finding.check != verdict.failed[0]


@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_a_promise_of_every_loss_is_found_without_knowing_the_formula(name, tmp_path):
    assert verified(name, tmp_path, {BREAKS[name]}, like=False).failed == [BREAKS[name]]
    slip = SLIPS[name]
    (tmp_path / "faithful.py").write_text((FOLDER / f"{slip.loss}.py").read_text(encoding="utf-8"), encoding="utf-8")
    faithful = verify(
        f"{tmp_path}/faithful.py:{class_name(slip.loss)}", parse_settings(slip.settings.split()), checks={BREAKS[name]}
    )
    assert faithful.failed == []


@pytest.mark.parametrize("name", packaged())
def test_a_faithful_copy_of_a_loss_is_called_right(name, tmp_path):
    (tmp_path / "mine.py").write_text((FOLDER / f"{name}.py").read_text(encoding="utf-8"), encoding="utf-8")
    verdict = verify(f"{tmp_path}/mine.py:{class_name(name)}", like=name)
    assert verdict.failed == []
    own = {finding.check: finding.status for finding in verify(name, checks={"ids", "text_order", "scale"}).findings}
    assert own.items() <= {finding.check: finding.status for finding in verdict.findings}.items()


@pytest.mark.parametrize(
    ("name", "check", "said", "likely"),
    [
        ("cmr_no_margin", "reference", r"\(step \d, ", "what the state holds is not used"),
        ("cmr_no_margin", "state", "state margin_K moves from step to step and changes nothing", "never used"),
        ("cmr_no_upper_bound", "reference", r"next state margin_K \(step 2, .*\): \d+.* where 10 is expected", "or its bounds"),
        ("cmr_no_answer", "reference", "state margin_K is not in the answer", "what is carried"),
        ("clip_right_at_7", "reference", r"\(scale (97|60)", "right at scale 7"),
        ("own_negatives_cut_20", "large_scores", "no longer grows between scale 24 and 24.5", "clamped"),
        ("clip_ids_float32", "ids", "ids of 63 bits that differ in the last bit, or above the 32nd", "cast to int32 or to a float"),
        ("clip_images_detached", "reference", "gradient of pooled_BD", "the value is right everywhere"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_sentence_with_the_case(name, check, said, likely, tmp_path):
    finding = verified(name, tmp_path, {check}).findings[0]
    assert re.search(said, finding.said), finding.said
    assert likely in finding.likely
    assert "\n" not in finding.said + finding.likely


def test_a_loss_that_raises_is_told_with_its_line_and_the_case(tmp_path):
    call = "        return pooled_softmax("
    text = (FOLDER / "clip.py").read_text(encoding="utf-8").replace(call, f"        _ = pairing.owner_N[0]\n{call}")
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    line = text[: text.index("_ = pairing")].count("\n") + 1
    found = {finding.check: finding for finding in verify(f"{tmp_path}/mine.py:ClipLoss", checks=["missing", "edges"]).findings}
    assert found["missing"].said.startswith("IndexError: index 0 is out of bounds")
    assert f"raised in mine.py line {line} (no image has a caption)" in found["missing"].said
    assert f"mine.py line {line} (no texts, scale 100)" in found["edges"].said


def test_margins_rise_bind_at_both_ends_and_last():
    subject = make_subject("cmr")
    carried, seen_K = subject.initial_state(), []
    for problem in steps():
        leaves = torch.tensor(problem.scale, dtype=torch.float64), torch.tensor(problem.bias, dtype=torch.float64)
        seen_K.append(carried["margin_K"])
        _, carried = subject.reference(problem.batch, *leaves, carried)
    every = torch.stack(seen_K)
    assert ((every > 0.5) & (every < 9.5)).any()
    assert (every == 10).any()
    assert (every[3:] == 0).any(0).all()
    assert torch.equal(every[4, 1], every[3, 1])  # of a kind that step 4 lacks
    assert 0 < subject.warm_state["margin_K"].max() < 10


def test_ids_are_easily_taken_for_one_another():
    ids = near_ids(20)
    assert len(set(ids.tolist())) == 20
    assert max(ids.tolist()) < 2**63
    assert len(set(ids.double().tolist())) == 5
    assert len(set(ids.float().tolist())) == 1
    assert len(set((ids & 0xFFFFFFFF).tolist())) == len(set(ids.int().tolist())) == 4


def test_where_there_is_no_reference_the_namesake_is_offered(tmp_path):
    (tmp_path / "mine.py").write_text((FOLDER / "siglip.py").read_text(encoding="utf-8"), encoding="utf-8")
    said = verify(f"{tmp_path}/mine.py:SiglipLoss", checks=["reference"]).findings[0].said
    assert "--like siglip" in said


def test_differences_name_the_case():
    differences = Differences()
    differences.case = "one image"
    differences.compare("value", torch.tensor(1.0), torch.tensor(2.0))
    assert differences.where == "value (one image): 1 where 2 is expected"


def test_the_list_is_long_and_covers_the_losses():
    assert len(SLIPS) >= 100
    losses = {slip.loss for slip in SLIPS.values()}
    assert losses <= set(packaged())
    assert len(losses) >= 24
    assert set(BREAKS) <= set(SLIPS)
    docs = (Path(__file__).parents[2] / "docs" / "verify.md").read_text(encoding="utf-8")
    assert f"{len(SLIPS)} of them in {len(losses)} losses" in docs
    assert f"finds all\n{len(SLIPS)} with `--like`, and {len(BREAKS)} without" in docs
