"""The live line and the log's lines: they fit, and their numbers belong together."""

import io
import re

import pytest

from wholegrain.training.meters import Reporter
from wholegrain.training.pace import Pace
from wholegrain.training.step import Outcome


class Terminal(io.StringIO):
    def isatty(self):
        return True


def outcome(step, first, second):
    parts = {"negclip": first, "cmr": second, "cmr/margin": 0.3}
    return Outcome(
        step=step, loss=first + second, parts=parts, lr=1e-5, grad_norm=12.345, scale=99.1, images=128, texts=640, cut=3
    )


def told(tmp_path, stream, total):
    reporter = Reporter(tmp_path, 0, total, stream=stream)
    reporter.device(1e12, 1e13, lambda: 12345.0)
    for step in range(total):
        reporter.step(outcome(step, 4.0 / (step + 1), 1.0 + step), 0.001)
    reporter.close()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", stream.getvalue())


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_live_line_fits_and_ends_whole(tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    shown = [line for line in told(tmp_path, Terminal(), 1200).splitlines() if "loss" in line]
    assert shown
    for line in shown:
        assert len(line) <= columns
        assert re.search(r"loss \d+\.\d{3}(  |$)", line), "the most important is there"
        assert "…" not in line
    assert ("texts/s" in shown[-1]) == (columns == 200)


def test_the_loss_and_its_parts_are_smoothed_alike(tmp_path):
    line = told(tmp_path, io.StringIO(), 20).splitlines()[-1]
    loss, negclip, cmr = (float(re.search(rf"{name} (\d+\.\d+)", line).group(1)) for name in ("loss", "negclip", "cmr"))
    assert loss == pytest.approx(negclip + cmr, abs=2e-3)
    assert cmr < 19, "not the last step's"


def test_a_long_thing_says_after_a_second_how_far_it_is(monkeypatch):
    now, said = [100.0], []
    monkeypatch.setattr("wholegrain.training.pace.time.monotonic", lambda: now[0])
    pace = Pace(said.append)
    for done in range(64, 6464, 64):
        now[0] += 0.5
        pace("images", done, 6400)
    assert said[0] == "128 of 6,400 images are encoded, about 0:00:49 to go."
    assert len(said) == 3
