"""Captions from real models: one in this process, and the same one behind ``transformers serve``, over HTTP."""

import os
import shutil
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from tiny_training import make_dataset
from tiny_vlm import make_vlm

from wholegrain.data.dataset import Dataset
from wholegrain.enrich.captions.captioner import EndpointCaptions
from wholegrain.enrich.captions.endpoint import Endpoint
from wholegrain.enrich.captions.local_captioner import LocalCaptions
from wholegrain.enrich.captions.prompting import Prompt
from wholegrain.enrich.runner import units
from wholegrain.enrich.runner.run import Options, enrich
from wholegrain.errors import UserError
from wholegrain.workflows.enrich import Captioning, caption_stages

PROMPTS = (Prompt("detail", "a b c d", max_tokens=12), Prompt("style", "x y", max_tokens=12))
PATIENCE = 300.0  # seconds until a server answers


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlm")
    make_vlm(folder)
    return str(folder)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "d"
    make_dataset(folder, 10, splits=("train",))
    return folder


@pytest.fixture
def data(original, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "SMALLEST_WITH_A_MODEL", 4)
    shutil.copytree(original, tmp_path / "d")
    return tmp_path / "d"


def said(folder):
    dataset = Dataset(folder)
    return {(key, c.role): c.text for key in dataset.keys("train") for c in dataset.generated.of(key)}


def captions(folder, stage):
    made = enrich(Dataset(folder), [stage], Dataset(folder).keys("train"), Options(max_failed=1))
    return made[0], said(folder)


def test_a_local_model_describes_pictures_in_batches(data, vlm, tmp_path):
    (stage,) = caption_stages([vlm], Captioning(batch=3))
    assert isinstance(stage, LocalCaptions)
    assert [prompt.name for prompt in stage.prompts][:2] == ["detail", "short"]
    made, texts = captions(data, LocalCaptions(vlm, PROMPTS, batch=3))
    assert made.rows == len(texts) == 20 - len(made.failures)
    assert all("before its first sentence ended" in failure.reason for failure in made.failures)
    assert len({text for (_, role), text in texts.items() if role == "detail"}) > 1, "it looks at the pictures"
    assert {row["model"] for row in Dataset(data)._sidecar("captions").to_pylist()} == {vlm}
    dataset = Dataset(data)
    for key in dataset.keys("train")[:3]:  # alone, without anything to fill up a batch
        (alone,) = LocalCaptions(vlm, PROMPTS, batch=1).rows([dataset.original(key)], [dataset.pixels(key)])
        assert {(row.key, row.role): row.text for row in alone if hasattr(row, "text")} == {
            k: t for k, t in texts.items() if k[0] == key
        }


def test_chance_is_a_function_of_seed_key_and_prompt(data, vlm):
    dataset = Dataset(data)
    records = [dataset.original(key) for key in dataset.keys("train")]
    pixels = [dataset.pixels(record.key) for record in records]
    hot = [Prompt("detail", "a b c d", max_tokens=12, temperature=3.0)]
    one, two, three = (LocalCaptions(vlm, hot, seed, batch) for seed, batch in ((0, 4), (0, 2), (1, 4)))
    first = one.rows(records, pixels)
    assert two.rows(records[::-1], pixels[::-1])[::-1] == first
    assert [str(row) for row in three.rows(records, pixels)] != [str(row) for row in first]


def test_what_is_no_such_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded as an image-text-to-text model"):
        LocalCaptions(str(tmp_path), PROMPTS)._loaded  # noqa: B018


@pytest.mark.slow
def test_the_same_model_behind_transformers_serve_says_the_same(data, vlm, tmp_path):
    pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    _, here = captions(data, LocalCaptions(vlm, PROMPTS, batch=1))
    (data / "captions.parquet").unlink()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "cache").mkdir()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache")}
    command = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    options = ["serve", vlm, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = tmp_path / "serve.log"
    with (
        log.open("w") as told,
        subprocess.Popen([sys.executable, "-c", command, *options], env=environment, stdout=told, stderr=told) as server,
    ):
        try:
            deadline = time.monotonic() + PATIENCE
            while not answers(f"http://127.0.0.1:{port}/health"):
                assert server.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.2)
            endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", vlm, concurrency=2, timeout=PATIENCE, max_side=0)
            made, there = captions(data, EndpointCaptions(endpoint, PROMPTS))
        finally:
            server.kill()
    assert there == here
    assert made.rows == len(here)


def answers(url):
    try:
        with urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except (URLError, OSError):
        return False
