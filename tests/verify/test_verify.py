"""``wholegrain verify`` finds what is wrong, finds nothing wrong in what is right, and says so in a way that machines can read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import planted_bugs
import pytest
import torch

from wholegrain.cli.main import main
from wholegrain.errors import UserError
from wholegrain.losses.clip import ClipLoss
from wholegrain.objectives.resolve import packaged, resolve_loss
from wholegrain.objectives.schema import Term
from wholegrain.verify import CHECKS, Differences, processes, verify
from wholegrain.verify.definitions import definition_named, definition_of, label, settings_of, variant_settings
from wholegrain.verify.subject import make_subject
from wholegrain.verify.verdict import verify_subject

SUPPORT = Path(__file__).parents[1] / "support"
DOCS = Path(__file__).parents[2] / "docs" / "verify.md"
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("verify")]  # one pool of processes for all


IMPLIED = {"gradients", "scale", "image_order", "text_order", "padding", "duplicates", "ids", "large_scores"}
"""What follows from ``reference``, whose problems have copies, padding, texts in no order, large scales, and the gradients of all of it."""


@pytest.mark.parametrize("name", packaged())
def test_every_packaged_loss_keeps_its_promises(name):
    """Every check of the loss by its defaults; of each variant those that do not follow from others, and those that it must fail."""
    kind = type(resolve_loss(Term(name)))
    for place, settings in enumerate(variant_settings(kind)):
        subject = make_subject(name, settings)
        chosen = {check.name for check in CHECKS} - ((IMPLIED - set(subject.breaks)) if place else set())
        verdict = verify_subject(subject, label(name, settings), chosen)
        assert not verdict.failed, verdict
        assert not verdict.skipped, verdict
        status = {finding.check: finding.status for finding in verdict.findings}
        assert set(status) == chosen
        assert status["reference"] == status["processes"] == status["precision"] == "pass", verdict


def _louder(image, text, output):
    return replace(output, value=1.001 * output.value)


def _deaf(image, text, output):
    return replace(output, value=output.value.detach() + 0 * output.value)


def _short_sighted(image, text, output):
    """One image, or the first numbers of a vector, count a little more."""
    return replace(output, value=output.value + 1e-4 * image.pooled_BD[0].square().sum())


@pytest.mark.parametrize("breaking", [_louder, _deaf, _short_sighted])
@pytest.mark.parametrize("name", packaged())
def test_breaking_any_loss_turns_it_red(name, breaking, monkeypatch):
    kind = type(resolve_loss(Term(name)))
    right = kind.__call__
    monkeypatch.setattr(
        kind,
        "__call__",
        lambda self, image, text, *rest, **named: breaking(image, text, right(self, image, text, *rest, **named)),
    )
    assert verify(name, checks=("reference",)).failed == ["reference"]


@pytest.mark.parametrize("name", ["clip", "paraphrases", "llip"])
def test_a_lost_gradient_is_found_without_the_formula(name, monkeypatch):
    kind = type(resolve_loss(Term(name)))
    right = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, image, *rest, **named: _deaf(image, None, right(self, image, *rest, **named)))
    assert verify(name, checks=("gradients",)).failed == ["gradients"]


def test_every_variant_of_the_table_is_verified():
    for name in packaged():
        assert all(settings_of(loss) in _variants(name) for loss in definition_named(name).variants.values())
    assert label("imc", {"variant": "released"}) == "imc variant=released"
    assert {"duplicates": "negative"} in variant_settings(type("Other", (ClipLoss,), {}))  # without a table: every choice once


def _variants(name):
    return variant_settings(type(resolve_loss(Term(name))))


@pytest.mark.parametrize("name", planted_bugs.FOUND_BY)
def test_planted_bugs_are_found_by_the_check_that_is_meant_to(name):
    wanted = planted_bugs.FOUND_BY[name]
    verdict = verify(f"{SUPPORT}/planted_bugs.py:{name}", checks=wanted)
    assert set(verdict.failed) == wanted
    assert "NOT right" in verdict.sentence
    for finding in verdict.findings:
        assert finding.difference > 0
        assert finding.likely
        assert finding.said


@pytest.mark.parametrize("name", ["SoundClip", "SoundMargin", "SoundPooling"])
def test_the_same_code_without_the_bugs_passes(name):
    verdict = verify(f"{SUPPORT}/planted_bugs.py:{name}")
    assert verdict.failed == []


def test_docs_name_every_check_and_every_bug():
    text = DOCS.read_text(encoding="utf-8")
    assert [check.name for check in CHECKS if f"`{check.name}`" not in text] == []
    assert [name for name in planted_bugs.FOUND_BY if f"`{name}`" not in text] == []
    for name, wanted in planted_bugs.FOUND_BY.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        assert all(f"`{check}`" in line for check in wanted)


def run(capsys, *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["verify", *args])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_example_of_the_docs_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_losses.py").write_text(blocks[0], encoding="utf-8")
    code, out, _ = run(capsys, "my_losses.py:MyLoss")
    assert code == 0, out
    assert "keeps its promises" in out
    broken = blocks[0].replace("gather_texts(", "gather_texts_of_here(").replace("@dataclass", _LOCAL + "@dataclass", 1)
    (tmp_path / "my_losses.py").write_text(broken, encoding="utf-8")
    code, out, _ = run(capsys, "my_losses.py:MyLoss", "--checks", "processes", "reference", "--json")
    found = json.loads(out)
    assert code == 1
    assert not found["right"]
    assert [f["status"] for f in found["findings"]] == ["pass", "FAIL"]
    assert found["findings"][1]["difference"] > 0.01


_LOCAL = """
def gather_texts_of_here(vectors, pairing, group):
    from wholegrain.losses.core.gather import GlobalTexts

    return GlobalTexts(vectors, pairing, 0, 0, None)


"""


def test_bad_input_is_one_sentence_and_two(capsys, tmp_path):
    (tmp_path / "no_loss.py").write_text("def number(*args):\n    return 1\n", encoding="utf-8")
    wrong = (["nope"], [], ["clip", "--settings", "duplicates"], ["clip", "--settings", "colour=red"], ["clip", "--checks", "pading"],
             [f"{tmp_path}/no_loss.py:number"], [f"{tmp_path}/none.py:Loss"], ["clip", "--like", "nothing"],
             ["clip", "--all", "--settings", "duplicates=negative"])  # fmt: skip
    for args in wrong:
        code, out, err = run(capsys, *args)
        assert (code, out, err.count("\n")) == (2, "", 1), args


def test_table_of_all_variants_of_one_loss(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, "imc", "--all")
    assert code == 0
    assert "imc variant=released: breaks text_order: the target is the first hard negative" in out
    assert f"All {len(_variants('imc'))} losses and variants keep their promises." in out
    code, out, _ = run(capsys, "diversity", "--all", "--json")
    assert [verdict["loss"] for verdict in json.loads(out)] == ["diversity", "diversity ceiling=-0.3", "diversity ceiling=0.9"]


def test_what_is_declared_as_broken_must_break(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from wholegrain.losses.clip import ClipLoss\n"
        "class TooModest(ClipLoss):\n    breaks = {'text_order': 'so it is said', 'padding': 'reads none'}\n"
        "class Unknown(ClipLoss):\n    breaks = {'pading': 'a misprint'}\n",
        encoding="utf-8",
    )
    verdict = verify(f"{tmp_path}/mine.py:TooModest", checks=["text_order", "padding"])
    assert verdict.failed == ["text_order", "padding"]
    with pytest.raises(UserError, match='"pading", which is no check'):
        verify(f"{tmp_path}/mine.py:Unknown")
    assert definition_named("imc").known_breaks(definition_named("imc").variants["imc-released"])
    assert not definition_named("clip").known_breaks(ClipLoss())
    assert definition_of(type("Other", (ClipLoss,), {})()) is None
    released = verify("imc", {"variant": "released"}, checks=["text_order", "image_order"])
    assert [finding.status for finding in released.findings] == ["pass", "known to break"]


def test_a_formula_can_be_claimed(tmp_path):
    released = verify("imc", {"variant": "released"}, like="imc variant=released", checks=["reference", "known_answers"])
    assert released.right
    other = verify("imc", {"variant": "paper"}, like="imc", checks=["reference", "known_answers"])
    assert other.failed == ["known_answers", "reference"]
    assert "ln 4" in other.findings[0].said


def test_a_loss_that_waits_for_ever_is_found(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom dataclasses import replace\nfrom wholegrain.losses.clip import ClipLoss\n"
        "from wholegrain.losses.core.gather import sum_over\n"
        "class Waits(ClipLoss):\n"
        "    def __call__(self, image, text, pairing, *rest, group=None):\n"
        "        if len(pairing.owner_N) > 5:\n"
        "            sum_over(torch.ones(()), group)\n"
        "        return super().__call__(image, text, pairing, *rest, group=group)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(processes, "SECONDS", 4.0)
    verdict = verify(f"{tmp_path}/mine.py:Waits", checks=["processes"])
    assert verdict.failed == ["processes"]
    monkeypatch.undo()
    assert verify("clip", checks=["processes"]).right  # with new processes


def test_differences_keep_the_worst():
    differences = Differences()
    differences.compare("near", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.002]))
    differences.compare("far", torch.tensor(100.0), torch.tensor(200.0))
    differences.compare("same", torch.ones(3), torch.ones(3))
    assert differences.worst == pytest.approx(0.5)
    assert differences.where == "far: 100 where 200 is expected"
    differences.compare("gone", torch.tensor([0.0, torch.nan]), torch.zeros(2))
    assert (differences.worst, differences.where) == (float("inf"), "gone: nan where 0 is expected")
