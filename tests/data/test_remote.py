"""Data that lie far away: a mirror that fills itself, and every fault on the way, injected by a server."""

import multiprocessing
import pickle
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from tiny_training import make_model, make_recipe

from wholegrain.data import remote
from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Record, caption_id, content_key
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import write_sidecar
from wholegrain.errors import MachineError, UserError
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan


class Server(ThreadingHTTPServer):
    """Serves a folder; ``faults[path]`` are answers to give first: a status, "cut" (half the body), or seconds of silence."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.faults, self.asked = {}, Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.server.asked[name] += 1
        queue = self.server.faults.get(name, [])
        fault = queue.pop(0) if len(queue) > 1 or (queue and queue[0] != "always cut") else (queue or [None])[0]
        if isinstance(fault, int):
            self.send_error(fault)
        elif isinstance(fault, float):
            time.sleep(fault)
            self.close_connection = True
        elif fault in ("cut", "always cut"):
            body = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


def shard_up(folder, count=24, per_shard=4):
    """Pictures of noise, four to a shard."""
    import io

    from PIL import Image

    with ShardWriter(folder, shard_bytes=per_shard * 3072) as writer:
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "png")
            image, text = file.getvalue(), f"picture {number}"
            key = content_key(image)
            writer.add(Record(key, f"{key}.png", (16, 16), "train", None, (Caption(caption_id(text), text),)), image)
    return Dataset(folder)


@pytest.fixture
def local(tmp_path):
    return shard_up(tmp_path / "origin" / "photos")


@pytest.fixture
def server(local, tmp_path, monkeypatch):
    monkeypatch.setenv("WHOLEGRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.01, 0.01))
    monkeypatch.setattr(remote, "TIMEOUT", 0.5)
    found = Server(tmp_path / "origin")
    yield found
    found.shutdown()


def shards_of(dataset):
    return sorted(path.name for path in (dataset.folder / "shards").glob("*.tar"))


def first_shard(dataset):
    return sorted(dataset.manifest["shards"])[0]


def test_far_and_near_are_the_same_and_each_shard_comes_once(local, server):
    far = Dataset(f"{server.url}/photos/")
    assert far.name == "photos"
    assert far.content_hash == local.content_hash
    assert shards_of(far) == []
    keys = far.keys("train")
    assert keys == local.keys("train")
    assert far.record(keys[0]) == local.record(keys[0])
    assert len(shards_of(far)) == 1
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(far.pixels, keys * 3))
    for key, picture in zip(keys * 3, pictures, strict=True):
        np.testing.assert_array_equal(picture, local.pixels(key))
    names = sorted(local.manifest["shards"])
    assert len(names) >= 4
    assert {name: server.asked[name] for name in names} == dict.fromkeys(names, 1)
    again = Dataset(Path(f"{server.url}/photos"))
    assert [again.record(key).key for key in keys] == keys
    assert server.asked[names[0]] == 1, "the mirror is kept"
    assert server.asked["index.parquet"] == 1
    assert far.negative_kinds == ()


def read_all(url, keys):
    dataset = Dataset(url)
    for key in keys:
        dataset.pixels(key)


def test_many_processes_fetch_a_shard_once(local, server):
    context = multiprocessing.get_context("fork")
    keys = local.keys("train")
    processes = [context.Process(target=read_all, args=(f"{server.url}/photos", keys)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert all(server.asked[name] == 1 for name in local.manifest["shards"])


@pytest.mark.parametrize("faults", [[500], [503, 500], ["cut"], ["cut", 502], [1.5]])
def test_disturbances_are_sat_out(local, server, faults):
    far, name = Dataset(f"{server.url}/photos"), first_shard(local)
    key = local.keys("train")[0]
    server.faults[name] = [*faults, None]
    assert far.record(key) == local.record(key)
    assert server.asked[name] == len(faults) + 1
    assert not list((far.folder / "shards").glob(".*.part"))


def test_what_does_not_end_is_one_sentence_that_names_the_shard(local, server):
    far, name, key = Dataset(f"{server.url}/photos"), first_shard(local), local.keys("train")[0]
    server.faults[name] = [500] * 9
    with pytest.raises(MachineError, match=rf"photos/shards/{name} could not be read, 3 times \(500 .*--resume"):
        far.record(key)
    server.faults[name] = [2.0] * 9
    with pytest.raises(MachineError, match=rf"{name} could not be read, 3 times \(.*timed out"):
        far.record(key)
    server.faults[name] = ["always cut"]
    with pytest.raises(MachineError, match=rf"{name} could not be read, 3 times \(the connection ended too soon"):
        far.record(key)
    server.faults[name] = [403]
    with pytest.raises(UserError, match=r"may not be read .*credentials"):
        far.record(key)
    assert shards_of(far) == []
    server.faults[name] = []
    assert far.record(key).key == key


def test_a_shard_that_was_changed_or_is_missing_is_named(local, server):
    far, name, key = Dataset(f"{server.url}/photos"), first_shard(local), local.keys("train")[0]
    path = local.folder / "shards" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{name}.*not those of the manifest.*upload the data set again"):
        far.record(key)
    path.unlink()
    with pytest.raises(UserError, match=rf"{name} is missing, though the index names it"):
        far.record(key)


def test_what_is_no_data_set_or_not_there(server, tmp_path):
    with pytest.raises(UserError, match=r"nowhere is no prepared data set"):
        Dataset(f"{server.url}/nowhere")
    (tmp_path / "origin" / "other").mkdir()
    (tmp_path / "origin" / "other" / "manifest.json").write_text("<html>")
    with pytest.raises(UserError, match=r"manifest\.json is not JSON"):
        Dataset(f"{server.url}/other")
    server.shutdown()
    server.server_close()
    with pytest.raises(MachineError, match=r"could not be read, 3 times"):
        Dataset(f"{server.url}/photos")


def test_the_cache_keeps_within_its_limit_and_drops_what_was_used_longest_ago(local, server, monkeypatch):
    names = sorted(local.manifest["shards"])
    size = (local.folder / "shards" / names[0]).stat().st_size
    monkeypatch.setenv("WHOLEGRAIN_CACHE_GB", str(2.5 * size / 2**30))
    far, first = Dataset(f"{server.url}/photos"), {}
    for key in local.keys("train"):
        first.setdefault(local._index["shard_names"][local._index["shard"][local._row(key)]], key)
    a, b, c = (first[name] for name in names[:3])
    for key in (a, b, a, c):
        far.record(key)
        time.sleep(0.02)
    assert shards_of(far) == [names[0], names[2]]
    for key in local.keys("train") * 2:
        assert far.record(key).key == key
        assert len(shards_of(far)) <= 2


def test_another_data_set_at_the_same_address_is_another_mirror(local, server):
    before = Dataset(f"{server.url}/photos")
    before.record(before.keys("train")[0])
    write_sidecar(local.folder, "truths", [("c", "k")])
    changed = Dataset(f"{server.url}/photos")
    assert changed.truths == {"c": ("k",)}
    assert changed.folder == before.folder
    shutil.rmtree(local.folder)
    shard_up(local.folder, count=8)
    after = Dataset(f"{server.url}/photos")
    assert after.folder != before.folder
    assert len(after.keys("train")) == 8
    assert after.truths == {}


def test_any_kind_of_address_that_fsspec_knows(local, tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("WHOLEGRAIN_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory").put(str(local.folder), "/far/photos", recursive=True)
    far = Dataset("memory://far/photos")
    assert pickle.loads(pickle.dumps(far)).keys("train") == local.keys("train")
    np.testing.assert_array_equal(far.pixels(far.keys("train")[-1]), local.pixels(local.keys("train")[-1]))
    with pytest.raises(UserError, match="nothing is no prepared data set"):
        Dataset("memory://far/nothing")
    with pytest.raises(UserError, match=r"cannot be opened"):
        Dataset("nosuchkind://x/y")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_afar_are_the_same_and_shards_come_before_they_are_wanted(local, server, workers):
    far, recipe, model = Dataset(f"{server.url}/photos"), make_recipe("clip"), make_model(local)

    def drawn(dataset, workers=0):
        names = names_of(dataset, recipe.data)
        samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, 0)
        sampler = PlanSampler(Plan(dataset.layout("train"), 4, 0, window=1), 0, 8)
        return make_loader(samples, sampler, model.tokenizer, names, workers=workers)

    expected = [batch.keys for batch in drawn(local)]
    found = []
    for batch in drawn(far, workers):
        found.append(batch.keys)
        if not workers and len(found) == 1:
            for _ in range(200):
                time.sleep(0.01)
                if len(shards_of(far)) >= 3:
                    break
            assert len(shards_of(far)) >= 3, "the next two are fetched while nobody asks"
    assert found == expected
    assert all(server.asked[name] == 1 for name in shards_of(far))


def test_a_fault_in_a_worker_is_one_sentence(local, server):
    far, recipe, model = Dataset(f"{server.url}/photos"), make_recipe("clip"), make_model(local)
    names = names_of(far, recipe.data)
    (local.folder / "shards" / sorted(local.manifest["shards"])[-1]).unlink()
    samples = DrawnSamples(far, model.preprocess, recipe.data, names, 0)
    loader = make_loader(samples, PlanSampler(Plan(far.layout("train"), 4, 0), 0, 6), model.tokenizer, names, workers=1)
    with pytest.raises(UserError, match=r"^http.*is missing, though the index names it; upload the data set again\.$"):
        list(loader)
    assert loader.failed
