"""The same stages on a real Ray cluster: the same bytes, also when one of its machines is lost. Ray is an extra: without it these are skipped."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import enrich_cluster
import enrich_work
import pytest
from enrich_work import run
from tiny_training import make_dataset

from wholegrain.enrich.runner import on_ray
from wholegrain.errors import UserError

ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


@pytest.fixture
def data(tmp_path):
    make_dataset(tmp_path / "d", 20)
    (tmp_path / "d" / "negatives.parquet").unlink()
    return tmp_path / "d"


def sidecars(folder):
    return {name: (folder / f"{name}.parquet").read_bytes() for name in ("negatives", "hard_positives")}


def started(script, *arguments):
    """Runs a script in a process of its own, which Ray's workers are to find, too."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(enrich_work.__file__).parent), *sys.path]), "RAY_DEDUP_LOGS": "1"}
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)


def whole(folder):
    """The sidecars that processes of this machine make, which are then removed."""
    run(folder)
    expected = sidecars(folder)
    for name in expected:
        (folder / f"{name}.parquet").unlink()
    shutil.rmtree(folder / "enrich")
    return expected


@ray
@pytest.mark.slow
def test_on_ray_the_same_bytes(data):
    expected = whole(data)
    done = started(enrich_work.__file__, str(data), json.dumps({"ray": "local", "workers": 2}))
    assert done.returncode == 0, done.stderr[-2000:]
    assert sidecars(data) == expected


@ray
@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_goes_on(data):
    expected = whole(data)
    done = started(enrich_cluster.__file__, str(data))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "killed" in done.stdout
    assert "alive 1 rows 120" in done.stdout
    assert sidecars(data) == expected


@ray
def test_no_cluster_at_the_address():
    with pytest.raises(UserError, match=r"--ray 127.0.0.1:9: no cluster answers there"):
        on_ray.connect("127.0.0.1:9")


def test_without_ray_the_option_says_what_to_install(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'install it with: pip install "wholegrain\[ray\]"'):
        run(data, ray="local")
