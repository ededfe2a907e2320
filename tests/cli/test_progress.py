"""What is shown of progress: on a terminal, and elsewhere."""

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from wholegrain import progress
from wholegrain.progress import counted, each, showing

SCRIPT = """
import sys, time
from wholegrain.progress import each, showing
with showing() as show:
    show("starting")
    for n in each(range(3), "counting sheep", show):
        time.sleep(0.15)
        if n == 1:
            show.clear()
            print("found one", flush=True)
print("done", flush=True)
"""


def on_a_terminal(**environment):
    """What standard output (a pipe) and standard error (a terminal) of the script hold."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=theirs, text=True, env={**os.environ, "TERM": "xterm", **environment}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    out = process.stdout.read()
    process.stdout.close()
    assert process.wait(30) == 0
    return out, shown.decode()


def test_a_terminal_has_a_line_that_changes_and_output_stays_where_it_belongs():
    out, shown = on_a_terminal()
    assert out == "found one\ndone\n"
    assert "starting" in shown
    assert re.search(r"counting sheep.*3/3", shown)
    assert "found one" not in shown
    assert "\x1b[2K" in shown  # the line is taken away


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colours_where_none_are_wanted(environment):
    _, shown = on_a_terminal(**environment)
    assert not re.search("\x1b\\[[0-9;]*[1-9][0-9;]*m", shown)


def test_a_pipe_gets_plain_lines_for_what_takes_long_alone(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_QUIET", 0.1)
    with showing() as show:
        show("a moment")
        for _ in each(range(4), "a while", show):
            time.sleep(0.06)
        tick = counted("drawing", 10, show)
        tick(4)
        time.sleep(0.2)
        tick(6)
        show.clear()
        show("the last moment")
    time.sleep(0.15)
    out, said = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"a while: \d of 4\ndrawing: 4 of 10\n", said)


def test_a_pipe_gets_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_EVERY", 0.05)
    with showing() as show:
        for n in range(4):
            show("reading", n)
            time.sleep(0.03)
    assert capsys.readouterr().err == "reading: 2\n"
