"""Captions from an endpoint over HTTP: faults, costs, limits, and calls that are never made twice."""

import base64
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from email.utils import formatdate

import pytest
from caption_server import FAULTS, serving
from PIL import Image
from tiny_training import make_dataset

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import caption_id
from wholegrain.enrich.captions import endpoint as endpoints
from wholegrain.enrich.captions.captioner import EndpointCaptions
from wholegrain.enrich.captions.endpoint import Endpoint, data_url
from wholegrain.enrich.captions.prompting import Prompt, cleaned, load_prompts
from wholegrain.enrich.captions.spending import Limit
from wholegrain.enrich.runner import units
from wholegrain.enrich.runner.journal import Answer, Journal, call_id
from wholegrain.enrich.runner.run import Options, enrich
from wholegrain.errors import MachineError, UserError
from wholegrain.workflows.enrich import Captioning, caption_stages

PROMPTS = (Prompt("detail", "Describe it.", max_tokens=50), Prompt("nouns", "Name the things.", max_tokens=20))
QUICK = {"timeout": 60.0, "first_wait": 0.02, "concurrency": 4}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "d"
    make_dataset(folder, 8, splits=("train",))
    return folder


@pytest.fixture
def data(original, tmp_path):
    shutil.copytree(original, tmp_path / "d")
    return tmp_path / "d"


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(units, "SMALLEST_WITH_A_MODEL", 3)


def captions(folder, url, prompts=PROMPTS, seed=0, options=None, most=8, **settings):
    """Makes captions of the first records."""
    stage = EndpointCaptions(Endpoint(url, "tiny", **{**QUICK, **settings}), prompts, seed)
    return enrich(Dataset(folder), [stage], Dataset(folder).keys("train")[:most], options or Options(max_failed=0))


def expected(folder, url="", prompts=PROMPTS):
    """What the server says of each image and prompt."""
    from caption_server import answer_to

    dataset, found = Dataset(folder), {}
    for key in dataset.keys("train"):
        image = data_url(dataset.image_bytes(key))
        for prompt in prompts:
            parts = [{"image_url": {"url": image}}, {"text": prompt.text}]
            found[key, prompt.name] = answer_to({"messages": [{"role": "user", "content": parts}]})
    return found


def said(folder):
    dataset = Dataset(folder)
    return {(key, c.role): c.text for key in dataset.keys("train") for c in dataset.generated.of(key)}


def test_every_image_gets_a_caption_of_each_prompt(data, tmp_path):
    with serving(tmp_path) as (url, log):
        made = captions(data, url)
    assert said(data) == expected(data)
    assert made[0].rows == 16
    row = Dataset(data)._sidecar("captions").to_pylist()[1]
    assert (row["model"], row["prompt"], row["version"], row["seed"], row["role"]) == (
        "tiny",
        "nouns",
        PROMPTS[1].version,
        0,
        "nouns",
    )
    assert row["source"] == f"tiny nouns@{PROMPTS[1].version} seed=0"
    body = log()[0]["body"]
    assert body["model"] == "tiny"
    assert {event["body"]["max_tokens"] for event in log()} == {20, 50}
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(url.partition(",")[2]) in {Dataset(data).image_bytes(key) for key in Dataset(data).keys("train")}


@pytest.mark.slow
def test_through_every_fault_to_the_same_captions(data, tmp_path):
    with serving(tmp_path, faults=FAULTS, each=3, hang=20) as (url, log):
        captions(data, url, timeout=5.0, concurrency=16)
        counts = Counter(event["said"] for event in log())
    assert said(data) == expected(data)
    assert set(counts) == {"ok", *FAULTS}
    assert sum(counts.values()) - counts["ok"] == 16 * 3


def test_a_paid_call_is_never_made_again(data, tmp_path):
    with serving(tmp_path) as (url, log):
        captions(data, url, PROMPTS[:1])
        assert len(log()) == 8
        captions(data, url, PROMPTS, options=Options(replace=True))  # one prompt more
        assert len(log()) == 16
        (data / "captions.parquet").unlink()
    captions(data, "http://127.0.0.1:9/v1", PROMPTS)  # nobody is asked
    assert said(data) == expected(data)
    with serving(tmp_path) as (url, log):
        hotter = (Prompt("detail", "Describe it.", max_tokens=50, temperature=1.0),)
        captions(data, url, hotter, seed=1, options=Options(replace=True))
        captions(data, url, hotter, seed=2, options=Options(replace=True))
        assert {event["body"]["seed"] for event in log()} == {1, 2}
        assert len(log()) == 16


SCRIPT = """
import sys
from wholegrain.data.dataset import Dataset
from wholegrain.enrich.runner import units
from wholegrain.enrich.captions.captioner import EndpointCaptions
from wholegrain.enrich.captions.endpoint import Endpoint
from wholegrain.enrich.captions.prompting import Prompt
from wholegrain.enrich.runner.run import Options, enrich
units.SMALLEST_WITH_A_MODEL = 3
prompts = [Prompt("detail", "Describe it.", max_tokens=50), Prompt("nouns", "Name the things.", max_tokens=20)]
stage = EndpointCaptions(Endpoint(sys.argv[2], "tiny", concurrency=2, first_wait=0.02), prompts)
dataset = Dataset(sys.argv[1])
enrich(dataset, [stage], dataset.keys("train"), Options(max_failed=0))
"""


@pytest.mark.slow
def test_five_kills_lose_no_answer_that_was_kept(tmp_path):
    data = make_dataset(tmp_path / "d", 12, splits=("train",)).folder
    draw, journal, kept = random.Random(0), data / "enrich" / "journal.jsonl", 0
    with serving(tmp_path, faults=["500", "cut"], seconds=0.05) as (url, log):
        for _ in range(5):
            more = draw.randrange(1, 3)
            with subprocess.Popen([sys.executable, "-c", SCRIPT, str(data), url]) as process:
                while process.poll() is None and (journal.read_bytes().count(b"\n") if journal.exists() else 0) < kept + more:
                    time.sleep(0.002)
                process.send_signal(signal.SIGKILL)
            assert process.returncode == -signal.SIGKILL
            assert not (data / "captions.parquet").exists()
            kept = journal.read_bytes().count(b"\n")
        assert journal.read_bytes().count(b'"text"') >= 3
        captions(data, url, most=12)
        answered = Counter(event["asked"] for event in log() if event["said"] == "ok")
    assert said(data) == expected(data)
    assert set(answered) == set(expected(data).values())
    assert (
        sum(answered.values()) <= 16 + 5 * 2
    )  # what was under way at a kill, two calls at most each time, is not known to have been paid
    whole = tmp_path / "whole"
    shutil.copytree(data, whole)
    shutil.rmtree(whole / "enrich")
    (whole / "captions.parquet").unlink()
    with serving(tmp_path) as (url, _):
        captions(whole, url, most=12)
    assert (whole / "captions.parquet").read_bytes() == (data / "captions.parquet").read_bytes()


def test_the_endpoint_says_when_to_come_back(data, tmp_path):
    with serving(tmp_path, faults=["429"], retry_after="2") as (url, log):
        captions(data, url, PROMPTS[:1], concurrency=1, most=2)
        events = log()
    first = next(event for event in events if event["said"] == "429")
    after = [event["at"] for event in events if event["at"] > first["at"]]
    assert min(after) >= first["at"] + 1.9
    assert endpoints._retry_after({"retry-after": formatdate(time.time() + 90)}) == pytest.approx(90, abs=5)
    assert endpoints._retry_after({"retry-after": "soon"}) == endpoints._retry_after({}) == 0


def test_not_more_at_a_time_nor_a_minute_than_allowed(data, tmp_path):
    with serving(tmp_path, seconds=0.1) as (url, log):
        start = time.monotonic()
        captions(data, url, PROMPTS[:1], concurrency=3, per_minute=240)
        assert time.monotonic() - start >= 7 * 0.25
        assert max(event["busy"] for event in log()) <= 3


def test_the_budget_is_never_exceeded_and_a_larger_one_goes_on(data, tmp_path):
    with serving(tmp_path, seconds=0.05, tokens=[1000, 10]) as (url, log):
        for most in (5000, 9000):  # of the first question nothing is known but that it may be long
            with pytest.raises(
                UserError, match=rf"The budget of {most:,} tokens does not allow another call: .* tokens are spent"
            ):
                captions(data, url, limit=Limit.of(str(most)), concurrency=8)
            assert most - 2 * 1350 < len(log()) * 1010 <= most
        captions(data, url, limit=Limit.of("20k"))
        assert len(log()) == 16
    assert said(data) == expected(data)


def test_money_is_a_budget_too_and_lost_calls_count(data, tmp_path):
    limit = Limit.of("0.01usd", (1.0, 2.0))
    with serving(tmp_path, faults=["hang"], hang=30, tokens=None) as (url, log):  # it counts nothing: the most is assumed
        with pytest.raises(UserError, match=r"The budget of 0.01 usd does not allow another call: 0.00\d+ usd are spent"):
            captions(data, url, PROMPTS[:1], limit=limit, timeout=2.0, concurrency=2, options=Options(max_failed=1))
        assert len(log()) == 2
    journal = Journal(data / "enrich" / "journal.jsonl")
    assert journal.tokens_in == 2 * 4096
    assert journal.tokens_out == 2 * 50
    assert len(journal) == 0
    with pytest.raises(UserError, match="needs --prices"):
        Limit.of("5usd")
    with pytest.raises(UserError, match="not understood"):
        Limit.of("five")
    assert Limit.of("").most == float("inf")


@pytest.mark.parametrize(
    ("code", "words"), [("401", "look at the key"), ("404", "look at the address"), ("402", "look at the account")]
)
def test_what_is_wrong_with_all_calls_stops_the_run(data, tmp_path, code, words):
    with serving(tmp_path, faults=[code], each=9) as (url, log):
        with pytest.raises(UserError, match=rf"refuses tiny \({code}: c fault {code}\); {words}"):
            captions(data, url)
        assert len(log()) <= 8
    assert not (data / "captions.parquet").exists()


def test_an_endpoint_that_is_not_there(data):
    with pytest.raises(MachineError, match="cannot be reached"):
        captions(data, "http://127.0.0.1:9/v1", attempts=2)
    with pytest.raises(UserError, match="does not say which models it has"):
        caption_stages(["http://127.0.0.1:9/v1"], Captioning())


def test_failures_have_reasons_and_too_many_stop_the_run(data, tmp_path):
    with serving(tmp_path, faults=["400"], each=9) as (url, log):
        with pytest.raises(
            UserError,
            match=r"failed, which is more than --max-failed 0.5 allows.*prompt nouns: the endpoint said 400 \(c fault 400\)",
        ):
            captions(data, url, options=Options(max_failed=0.5))
        assert len({event["asked"] for event in log()}) == len(log()), "what is wrong with a question is asked once"
    with serving(tmp_path, faults=["503"], each=9) as (url, _):
        made = captions(data, url, PROMPTS[:1], attempts=2, options=Options(max_failed=1))
    assert made[0].rows == 0
    assert {f.reason for f in made[0].failures} == {"prompt detail: the endpoint said 503 (c fault 503), 2 times"}
    with serving(tmp_path) as (url, _):
        captions(data, url, PROMPTS[:1])
    assert len(said(data)) == 8


def test_why_an_answer_ended(data, tmp_path):
    with serving(tmp_path, finish="length") as (url, _):
        captions(data, url, PROMPTS[:1])
    assert said(data) == {place: text for place, text in expected(data).items() if place[1] == "detail"}
    with serving(tmp_path, finish="content_filter") as (url, log):
        made = captions(data, url, PROMPTS[1:], options=Options(max_failed=1, replace=True))
        assert {f.reason for f in made[0].failures} == {"prompt nouns: the endpoint's filter held the answer back"}
        captions(data, url, PROMPTS[1:], options=Options(max_failed=1, replace=True))
        assert len(log()) == 8, "an answer that is of no use was paid for as well"


def test_the_key_comes_from_the_environment(data, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with serving(tmp_path) as (url, log):
        captions(data, url, PROMPTS[:1], key="MY_KEY")
        assert {event["key"] for event in log()} == {"Bearer secret"}
    for path in data.rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes()


def test_further_fields_and_newer_names(data, tmp_path):
    with serving(tmp_path, newer=True) as (url, log):
        captions(data, url, PROMPTS[:1], extra={"top_p": 0.5})
        assert {(event["body"]["max_completion_tokens"], event["body"]["top_p"]) for event in log()} == {(50, 0.5)}
    assert len(said(data)) == 8


def test_models_by_name_and_by_address(tmp_path):
    with serving(tmp_path, models=["one"]) as (url, _):
        (stage,) = caption_stages([url], Captioning(prompts=("short",)))
        assert stage.identity["model"] == "one"
        assert "127.0.0.1" not in json.dumps(stage.identity)
    with serving(tmp_path, models=["one", "two"]) as (url, _):
        with pytest.raises(UserError, match=r"has 2 models \(one, two\); name one, as in NAME@"):
            caption_stages([url], Captioning())
        first, second = caption_stages([f"one@{url}", f"two@{url}/"], Captioning())
        assert (first.identity["model"], second.identity["model"]) == ("one", "two")


def test_prompts_are_data(tmp_path):
    packaged = load_prompts()
    assert [p.name for p in packaged] == ["detail", "short", "main_object", "background", "nouns", "style", "relations", "counts"]
    assert len({p.version for p in packaged}) == 8
    file = tmp_path / "mine.toml"
    file.write_text('version = "7"\n[mood]\ntext = "How does it feel?"\nrole = "style"\ntemperature = 0.5\n[b]\ntext = "x"\n')
    (mood,) = load_prompts([str(file), "mood"])
    assert (mood.role, mood.temperature, mood.version[:2]) == ("style", 0.5, "7.")
    assert len(load_prompts([str(file)])) == 2
    before = mood.version
    file.write_text(file.read_text().replace("feel?", "feel to you?"))
    assert load_prompts([str(file), "mood"])[0].version != before
    for text, words in (
        ("[a]\nrole = \"x\"", 'has no key "text"'), ('[a]\ntext = "x"\nrol = "y"', r'unknown key "rol" \(did you mean "role"\?\)'),
        ("a = ", "is not valid TOML"),
        ('[a]\ntext = "x"\nmax_tokens = 0', "max_tokens = 0 is not allowed"), ("", "has no prompts"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            load_prompts([str(file)])
    with pytest.raises(UserError, match='did you mean "style"'):
        load_prompts(["styl"])
    with pytest.raises(UserError, match="does not exist"):
        load_prompts(["none.toml"])


def test_answers_become_captions():
    assert cleaned("<think>a dog?</think>\n'A dog.'") == "A dog."
    assert cleaned("A dog runs. It has a ba", cut=True) == "A dog runs."
    assert cleaned('He said "hi" and "bye"') == 'He said "hi" and "bye"'
    assert cleaned("dog, cat, tr", cut=True) == ""
    assert cleaned("  \n ") == ""
    row = PROMPTS[0].caption("k", "A dog.", "m", 0)
    assert row.caption != caption_id("A dog.")
    assert row.caption != PROMPTS[1].caption("k", "A dog.", "m", 0).caption


def test_pictures_are_sent_as_they_are_unless_they_are_large_or_strange():
    def file(kind, size):
        buffer = io.BytesIO()
        Image.new("RGB", size, (200, 10, 10)).save(buffer, kind)
        return buffer.getvalue()

    for kind in ("JPEG", "PNG", "WEBP"):
        image = file(kind, (40, 20))
        assert data_url(image, 64) == f"data:image/{kind.lower()};base64,{base64.b64encode(image).decode()}"
    for image in (file("PNG", (400, 200)), file("TIFF", (100, 50))):
        head, _, code = data_url(image, 100).partition(",")
        assert head == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(code))).size == (100, 50)


def test_a_journal_survives_a_torn_line(tmp_path):
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    for n in range(3):
        journal.keep(call_id({"n": n}), Answer(f"answer {n}", "stop", 100, n), {})
    journal.lost(call_id({"n": 9}), 4000, 5, "time")
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rfind(b'{"call"') + 20])
    again = Journal(path)
    assert [again.get(call_id({"n": n})).text for n in range(3)] == ["answer 0", "answer 1", "answer 2"]
    assert (again.tokens_in, again.tokens_out, again.largest_in) == (300, 3, 100)
    again.keep(call_id({"n": 4}), Answer("late", "stop"), {})
    assert Journal(path).get(call_id({"n": 4})) == Answer("late", "stop")
    assert len(Journal(path)) == 4
