"""Reading with bounds and types, writing whole or not at all, one writer at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wholegrain.errors import MachineError, UserError
from wholegrain.files import (
    UnreadableError,
    aside,
    digest,
    disk_errors,
    folder_aside,
    read_bytes,
    read_json,
    read_parquet,
    read_text,
    read_toml,
    sha256,
    write_json,
)
from wholegrain.locks import locked
from wholegrain.structure import StructureError, structure


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


class Facts(TypedDict):
    step: int
    points: dict[str, Point]
    seed: NotRequired[int | None]


def sentence(make, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        make(*args, "make it again", **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith("make it again.")
    return text


def odd_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Things that are no files: what -> where, and a word of the sentence."""
    fifo, loop, sock = folder / "fifo", folder / "loop", folder / "sock"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(sock))
    return {
        "missing": (folder / "none", "does not exist"),
        "folder": (folder, "is a folder"),
        "pipe": (fifo, "is a pipe"),
        "loop": (loop, "leads to itself"),
        "socket": (sock, "is a socket"),
        "device": (Path("/dev/zero"), "is a device"),
        "below a file": (Path(__file__) / "x", "does not exist"),
        "long name": (folder / ("n" * 300), "too long"),
        "NUL": (folder / "a\0b", "cannot be the name"),
        "surrogate": (folder / "a\ud800b", "cannot be the name"),
    }


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    for path, said in odd_files(tmp_path).values():
        started = time.monotonic()
        assert said in sentence(read_bytes, path)
        assert said in sentence(lambda path, advice: read_parquet(path, pa.schema([("a", pa.int64())]), advice), path)
        assert time.monotonic() - started < 1


def test_texts_are_bounded_and_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_text(path, "x") == "{}"
    path.write_bytes(b"[" + b"1," * 600 + b"1]")
    assert "longer than 1,000 bytes" in sentence(read_bytes, path, most=1000)
    path.write_bytes(b"ab\xffcd")
    assert "UTF-8 text (byte 2)" in sentence(read_text, path)
    path.write_text("[" * 100_000)
    assert "nested too deeply" in sentence(lambda p, advice: read_json(p, list, advice), path)
    path.write_text("a = " + "[" * 100_000)
    assert "a.json" in sentence(read_toml, path)
    path.write_text("1" * 5000)
    assert "not JSON" in sentence(lambda p, advice: read_json(p, int, advice), path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"points": {}}, 'no key "step"'),
        ({"step": 1}, 'no key "points"'),
        ({"step": 1.5, "points": {}}, 'at "step": 1.5 is not a whole number'),
        ({"step": True, "points": {}}, 'at "step": True is not a whole number'),
        ({"step": 1, "points": {"a": {"x": None}}}, 'at "points.a.x": None is not a whole number'),
        ({"step": 1, "points": {"a": {}}}, 'no key "points.a.x"'),
        ({"step": 1, "points": {"a": {"x": 1, "yy": 2}}}, 'unknown key "points.a.yy" (did you mean "y"?)'),
        ({"step": 1, "points": []}, 'at "points": [] is not a table'),
        ({"step": 1, "points": {}, "seed": "1"}, 'at "seed"'),
        ([], "[] is not a table"),
        (None, "None is not a table"),
    ],
)
def test_values_of_other_types_are_named(tmp_path: Path, value: object, said: str) -> None:
    path = tmp_path / "facts.json"
    write_json(path, value)
    found = sentence(lambda p, advice: read_json(p, Facts, advice), path)
    assert said in found
    assert str(path) in found


def test_values_of_the_right_types_come_back() -> None:
    value = {"step": 3, "points": {"a": {"x": 1, "y": 2}}, "seed": None, "more": [1]}
    assert structure(value, Facts) == {"step": 3, "points": {"a": Point(1, 2.0)}, "seed": None, "more": [1]}
    assert structure([1, 2.5, None], list[float | None]) == [1.0, 2.5, None]
    assert structure([[1, 2], [3, 4]], tuple[tuple[int, int], ...]) == ((1, 2), (3, 4))
    with pytest.raises(StructureError, match="2 items"):
        structure([1], tuple[int, int])
    with pytest.raises(StructureError, match="too large"):
        structure({"x": 1, "y": 10**400}, Point)


def test_parquet_is_checked_against_its_columns(tmp_path: Path) -> None:
    path, schema = tmp_path / "t.parquet", pa.schema([pa.field("key", pa.string(), nullable=False), ("n", pa.int64())])
    read = lambda p, advice: read_parquet(p, schema, advice)  # noqa: E731
    pq.write_table(pa.table({"n": [1, None], "key": ["a", "b"], "more": [0.5, 0.5]}), path)
    assert read_parquet(path, schema, "x").to_pydict() == {"key": ["a", "b"], "n": [1, None]}
    pq.write_table(pa.table({"key": ["a"]}), path)
    assert "no column 'n'" in sentence(read, path)
    pq.write_table(pa.table({"key": ["a", None], "n": [1, 2]}), path)
    assert "column 'key'" in sentence(read, path)
    pq.write_table(pa.table({"key": ["a"], "n": [["x"]]}), path)
    assert "right kind" in sentence(read, path)
    invalid = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"key": invalid, "n": [1]}), path)
    assert "right kind" in sentence(read, path)
    whole = path.read_bytes()
    for damaged in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2], bytes(len(whole)), whole[:40] + b"\xff" * 40 + whole[80:]):
        path.write_bytes(damaged)
        assert str(path) in sentence(read, path)


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), aside(path) as part:
        print(part.write_text("half") // 0)
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert json.loads(path.read_text()) == {"a": 1}
    folder = tmp_path / "model"
    for text in ("one", "two"):
        with folder_aside(folder) as part:
            (part / "w").write_text(text)
    with pytest.raises(ZeroDivisionError), folder_aside(folder) as part:
        print((part / "w").write_text("half") // 0)
    assert (folder / "w").read_text() == "two"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "model"]


def test_the_disk_says_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(UserError, match="cannot be written"), disk_errors(tmp_path):
        (tmp_path / "f" / "g").mkdir()
    with pytest.raises(MachineError, match="is full"), disk_errors(tmp_path), open("/dev/full", "w") as full:
        full.write("x" * 10**6)


def _hold(folder: Path, ready) -> None:
    with locked(folder, "training"):
        ready.set()
        time.sleep(60)


def test_a_folder_has_one_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready))
    other.start()
    assert ready.wait(30)
    with pytest.raises(UserError, match=f"in use .process {other.pid}, training"), locked(tmp_path, "training"):
        pass
    os.kill(other.pid or 0, signal.SIGKILL)
    other.join()
    with locked(tmp_path, "training"):  # a process that died holds nothing
        pass


def test_unreadable_says_whether_it_is_missing(tmp_path: Path) -> None:
    for path, missing in ((tmp_path / "none", True), (tmp_path, False)):
        with pytest.raises(UnreadableError) as caught:
            read_bytes(path, "x")
        assert caught.value.missing == missing


def test_what_a_killed_process_left_goes_with_the_next_writing(tmp_path: Path) -> None:
    gone = multiprocessing.get_context("fork").Process(target=int)
    gone.start()
    gone.join()
    with aside(tmp_path / "a.json") as part:
        part.write_text("")
    left, own = (part.with_name(part.name.replace(f"{os.getpid()}.part", f"{pid}.part")) for pid in (gone.pid, os.getppid()))
    other, elsewhere = left.with_name(left.name.replace(".a.", ".b.")), tmp_path / f".a.json.another-{gone.pid}.part"  # of another machine
    for path in (left, own, other, elsewhere):
        path.write_text("half")
    write_json(tmp_path / "a.json", 1)
    assert sorted(tmp_path.iterdir()) == sorted([own, other, elsewhere, tmp_path / "a.json"])


def test_an_error_is_one_sentence_whatever_is_quoted(tmp_path: Path) -> None:
    for kind in (UserError, MachineError):
        text = str(kind(f"no {'n' * 9000} in line\nbreak \x1b[31m; go on"))
        assert len(text) < 1100
        assert text.isprintable()
        assert text.startswith("no nnn")
        assert text.endswith("line break \\x1b[31m; go on")


def test_an_unreadable_file_is_told_from_a_workers_process(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_bytes(tmp_path / "none", "make it again")
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, UserError)
    assert str(again) == str(caught.value)


def test_a_digest_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="is a pipe"):
        sha256(tmp_path / "fifo")


def test_a_digest_is_of_whatever_json_can_hold() -> None:
    values = [None, "a", "\ud800", {"a": "\ud800"}, {"\ud800": 1}, [1, 2], [2, 1], 10**400]
    assert len({digest(value) for value in values}) == len(values)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "socket"])
def test_what_stands_where_a_lock_should_is_refused_and_left_alone(tmp_path, kind):
    lock, other = tmp_path / ".lock", tmp_path / "letter"
    other.write_text("dear")
    if kind == "link":
        lock.symlink_to(other)
    elif kind == "folder":
        lock.mkdir()
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(lock))
    with pytest.raises(UserError, match=r"\.lock is not an ordinary file, and so no lock; delete it"), locked(tmp_path, "training"):
        pass
    assert other.read_text() == "dear"
