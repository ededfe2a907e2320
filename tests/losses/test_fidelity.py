"""The comparison with released code: it reads fixed commits, sees what differs, and says what is not there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "fidelity"
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
RELEASED = """
import not_installed_anywhere
import torch
from torch.nn.functional import cross_entropy


class ClipLoss(not_installed_anywhere.Base):
    def forward(self, image, text, scale):
        logits, labels = scale * image @ text.T, torch.arange(len(image))
        return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
"""


@pytest.fixture
def harness(monkeypatch):
    """The script's modules, by their own names and only here."""
    before, kind = set(sys.modules), torch.get_default_dtype()
    monkeypatch.syspath_prepend(str(FOLDER))
    torch.set_default_dtype(torch.float64)
    import compare

    yield compare
    torch.set_default_dtype(kind)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(FOLDER)):
            del sys.modules[name]


def commit(folder: Path, text: str) -> str:
    """Another version of the released file; its commit."""
    folder.mkdir(exist_ok=True)
    (folder / "loss.py").write_text(text)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "loss.py"], ["commit", "-q", "-m", "loss"]):
        subprocess.run([*git, *words], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_a_released_loss_is_read_at_its_commit_and_compared(harness, tmp_path):
    right = commit(tmp_path / "name", RELEASED)
    wrong = commit(tmp_path / "name", RELEASED.replace("/ 2", "/ 2 + 0.001 * image.sum()"))
    original = harness.Original("owner/name", right, ("loss.py",), "loss", empty=("not_installed_anywhere",))
    row = replace(harness.rows(harness.Originals(tmp_path))["CLIP, SigLIP, hard negatives"][0], original=original)
    originals = harness.Originals(tmp_path)
    assert harness.run(row, originals).verdict == "agrees"
    tampered = replace(row, original=replace(original, commit=wrong))
    assert harness.run(tampered, originals).verdict == "WRONG: should agree"
    assert harness.run(replace(row, same=False), originals).verdict == "WRONG: should differ"
    page = harness.markdown({"Here": [harness.run(row, originals)]})
    assert f"| clip | owner/name@{right[:7]} `ClipLoss` | agrees |" in page
    assert "loss" not in sys.modules
    assert "not_installed_anywhere" not in sys.modules


def test_what_is_not_there_is_named(harness, tmp_path):
    found = commit(tmp_path / "name", RELEASED)
    row = harness.rows(harness.Originals(tmp_path))["CLIP, SigLIP, hard negatives"][0]
    assert harness.run(row, harness.Originals(tmp_path)).verdict == "not run: no clone open_clip"
    bare = harness.Original("owner/name", found, ("loss.py",), "loss")
    said = harness.run(replace(row, original=bare), harness.Originals(tmp_path)).verdict
    assert said == "not run: No module named 'not_installed_anywhere'"
    assert "git clone https://github.com/ExplainableML/flair FOLDER/flair" in harness.clones()
