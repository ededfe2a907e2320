"""Full disks, Ctrl-C and memory, as a user of the commands meets them."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import make_dataset, make_model, picture

from wholegrain.cli import main as cli
from wholegrain.data.dataset import Dataset
from wholegrain.errors import MachineError
from wholegrain.evaluation.features.split import encode_split
from wholegrain.report.contact_sheet import write_contact_sheet
from wholegrain.towers import feature_files


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), count=8)


def test_a_cache_of_features_on_a_full_disk(dataset, tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_files, "save_file", full)
    with pytest.raises(MachineError, match="leave out --cache"):
        encode_split(make_model(dataset).eval(), dataset, "val", cache=tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_damaged_cache_of_features_is_made_anew(dataset, tmp_path):
    model = make_model(dataset).eval()
    first = encode_split(model, dataset, "val", cache=tmp_path)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert [file.name.partition("-")[0] for file in files] == ["images", "texts"]
    whole = [file.read_bytes() for file in files]
    for file, size in zip(files, (50, -10), strict=True):
        file.write_bytes(file.read_bytes()[:size])
    again = encode_split(model, dataset, "val", cache=tmp_path)
    assert (first.image.pooled_BD == again.image.pooled_BD).all()
    assert (first.text.pooled_ND == again.text.pooled_ND).all()
    assert [file.read_bytes() for file in files] == whole


def test_features_of_the_same_weights_in_another_architecture_are_not_taken_for_these(dataset, tmp_path):
    model, other = (make_model(dataset, heads=heads).eval() for heads in (2, 4))
    other.load_state_dict(model.state_dict())
    kept = encode_split(model, dataset, "val", cache=tmp_path)
    found = encode_split(other, dataset, "val", cache=tmp_path)
    alone = encode_split(other, dataset, "val")
    assert not torch.equal(kept.image.pooled_BD, found.image.pooled_BD)
    assert torch.equal(found.image.pooled_BD, alone.image.pooled_BD)


def test_a_contact_sheet_on_a_full_disk_leaves_nothing(dataset, tmp_path, monkeypatch):
    def full(self, text, **_):
        self.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(MachineError, match="full"):
        write_contact_sheet(dataset, tmp_path / "sheet.html", per_split=1)
    assert list(tmp_path.iterdir()) == []


def test_prepare_after_ctrl_c_says_how_to_go_on_and_goes_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "images").mkdir()
    rows = ["filepath,caption"]
    for number in range(5):
        (tmp_path / "images" / f"{number}.png").write_bytes(picture("red", "blue", number))
        rows.append(f"images/{number}.png,picture {number}")
    (tmp_path / "photos.csv").write_text("\n".join(rows) + "\n")

    def prepare():
        with pytest.raises(SystemExit) as caught:
            cli.main(["prepare", str(tmp_path / "photos.csv"), str(tmp_path / "data"), "--workers", "1", "--split-by", "none"])
        return caught.value.code, capsys.readouterr().err

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("wholegrain.data.prepare._write", interrupted)
        code, said = prepare()
    assert code == 130
    assert "the same command goes on" in said
    assert not (tmp_path / "data").exists()
    monkeypatch.setattr("wholegrain.data.scan.look_at", interrupted)  # what was looked at is not looked at again
    assert prepare()[0] == 0
    assert len(Dataset(tmp_path / "data").keys("train")) == 5
    assert not list(tmp_path.glob(".data*"))


FAULTS = """
import resource, sys
import numpy as np
from wholegrain.training.memory.malloc import keep_freed_memory
keep_freed_memory()
def fill(): np.empty(2**26, np.uint8).fill(1)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's own settings")
def test_freed_memory_is_used_again_unless_the_user_says_otherwise():
    def pages(**more):
        plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        done = subprocess.run([sys.executable, "-c", FAULTS], env=plain | more, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert pages() < 100
    assert pages(MALLOC_MMAP_THRESHOLD_="131072") >= 5 * 32  # huge pages at the least
