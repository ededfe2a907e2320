"""The makers of damage themselves."""

from __future__ import annotations

import json
import stat
import time

import pytest
from damage import damaged_files, damaged_json, damaged_json_files, json_text, met_badly, soon

from wholegrain.errors import UserError


def test_every_copy_differs_in_one_file_and_the_folder_itself_stays_as_it_was(tmp_path):
    folder = tmp_path / "whole"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.json").write_text('{"x": [1, 2, 3]}')
    (folder / "inner" / "b.bin").write_bytes(bytes(range(256)))
    seen = {}
    for said, copy in damaged_files(folder):
        name = "a.json" if said.startswith("a.json") else "inner/b.bin"
        other = "inner/b.bin" if name == "a.json" else "a.json"
        assert (copy / other).read_bytes() == (folder / other).read_bytes()
        is_file = not (copy / name).is_symlink() and (copy / name).exists() and stat.S_ISREG((copy / name).stat().st_mode)
        seen[said] = not is_file or (copy / name).read_bytes() != (folder / name).read_bytes()
    assert all(seen.values())
    assert len(seen) > 30
    assert (folder / "a.json").read_text() == '{"x": [1, 2, 3]}'


def test_every_part_of_a_value_is_replaced_and_left_out():
    found = dict(damaged_json({"a": {"b": 1}, "c": [1, 2, 3]}))
    assert found["a.b: null"] == {"a": {"b": None}, "c": [1, 2, 3]}
    assert found["a.b: left out"] == {"a": {}, "c": [1, 2, 3]}
    assert found["c.2: a text"] == {"a": {"b": 1}, "c": [1, 2, "wrong"]}
    with pytest.raises(RecursionError):
        json.loads(json_text(found["a: a nested list"]))


def test_damaged_json_files_are_written_where_they_were(tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    (folder / "a.json").write_text('{"x": 1}')
    found = {said: (copy / "a.json").read_text() for said, copy in damaged_json_files(folder)}
    assert found["a.json x: null"] == '{"x": null}'
    assert found["a.json x: a huge number"] == f'{{"x": {10**400}}}'


def test_a_reader_that_fails_otherwise_than_by_a_sentence_or_hangs_is_told():
    def said():
        raise UserError("wrong; do this.")

    assert met_badly("x", said) is None
    assert met_badly("x", lambda: 1) is None
    assert "KeyError" in str(met_badly("x", lambda: {}["y"]))
    assert "over 0.2 seconds" in str(met_badly("x", lambda: time.sleep(5), seconds=0.2))
    with pytest.raises(AssertionError), soon(0.1):
        time.sleep(5)
