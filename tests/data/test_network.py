"""Without a network: what is in the cache is found, anything else is one sentence, at once and without noise."""

import logging
import shutil
import socket
import sys
import time
import urllib.request

import pytest
from house_models import open_clip_folder

from wholegrain.cli import main as cli
from wholegrain.data import network
from wholegrain.data.network import hub_or_cache, reachable
from wholegrain.errors import UserError
from wholegrain.towers import load_model
from wholegrain.towers.export.export import export_model
from wholegrain.towers.sources.hf_text import hf_text_tower
from wholegrain.towers.sources.hub import fetch_tokenizer, from_hub


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """Every way out ends at a closed port, and the caches are empty; gives the Hub's."""
    from huggingface_hub import constants

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it is made once a process, of the proxies of that time
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HOME", str(tmp_path))
    reachable.cache_clear()
    yield tmp_path / "hub"
    reachable.cache_clear()


FETCHES = {
    "ViT-B-32:openai": load_model,
    "hf-hub:some/clip": load_model,
    "some/clip": lambda name: from_hub(name, ("model.json",)),
    "timm/ViT-B-16-SigLIP": fetch_tokenizer,
}


@pytest.mark.parametrize("spec", FETCHES)
def test_a_model_that_must_be_fetched_is_refused_at_once(spec, closed, caplog, capfd):
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        FETCHES[spec](spec)
    assert time.monotonic() - began < 30, "the Hub's own libraries try for minutes"
    said = str(caught.value)
    assert spec in said
    assert f"{closed}, and https://huggingface.co cannot be reached; without a network use a folder, NAME:FILE, small or base" in said
    assert "\n" not in said
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_the_command_says_it_in_one_line(closed, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", "hf-hub:some/clip", str(closed / "out"), "--to", "onnx"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "hf-hub:some/clip is not in the cache" in said
    assert len(said.splitlines()) == 1


def cached(hub, folder, repository):
    """A folder as huggingface_hub keeps it."""
    place = hub / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))


def test_a_model_in_the_cache_is_found(closed, tmp_path):
    open_clip_folder(tmp_path / "made")
    cached(closed, tmp_path / "made", "some/clip")
    assert load_model("hf-hub:some/clip").width == 16


def test_a_tag_that_lies_at_an_address_of_its_own(closed, tmp_path, monkeypatch):
    import open_clip

    stated = {"url": "https://example.invalid/clip.pt", "hf_hub": ""}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: stated)
    with pytest.raises(UserError, match=r"\.cache/clip, and https://example.invalid/clip.pt cannot be reached"):
        load_model("ViT-B-32:openai")


def test_data_from_the_hub_are_refused_at_once(closed, tmp_path, capsys):
    pytest.importorskip("datasets")
    with pytest.raises(SystemExit) as ended:
        cli.main(["prepare", "hf:some/photos", str(tmp_path / "data")])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "hf:some/photos is not in the cache" in said
    assert "give hf:FOLDER" in said


def test_a_network_that_swallows_everything_is_waited_for_briefly(monkeypatch):
    monkeypatch.setattr(network, "SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5) or [])
    reachable.cache_clear()
    began = time.monotonic()
    assert not reachable("http://swallowed.invalid")
    assert time.monotonic() - began < 3
    reachable.cache_clear()


def test_any_answer_is_a_network(monkeypatch):
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # it answers 501 to everything
    server.RequestHandlerClass.log_message = lambda *_: None
    Thread(target=server.handle_request, daemon=True).start()
    assert reachable(f"http://127.0.0.1:{server.server_port}")
    server.server_close()


@pytest.mark.parametrize("to", ["transformers", "onnx"])
def test_a_missing_extra_is_named_with_the_line_that_installs_it(to, tmp_path, monkeypatch):
    open_clip_folder(tmp_path / "made")
    model = load_model(tmp_path / "made")
    for name in ("transformers", "onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    extra = {"transformers": "hf", "onnx": "onnx"}[to]
    with pytest.raises(UserError, match=rf'pip install "wholegrain\[{extra}\]"$'):
        export_model(model, tmp_path / "out", to)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "clip"}')
    for load in (load_model, hf_text_tower):
        with pytest.raises(UserError, match=r'pip install "wholegrain\[hf\]"$'):
            load(tmp_path / "bert")


def test_settings_come_back(closed):
    from huggingface_hub import constants

    with hub_or_cache() as reached:
        assert not reached
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    assert logging.root.manager.disable == logging.NOTSET
