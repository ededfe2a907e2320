"""How commands fail: one sentence, an exit code, and a trace in a file for what nobody foresaw."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from wholegrain.cli import failures
from wholegrain.cli import main as cli


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """The user's state folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("WHOLEGRAIN_DEBUG", raising=False)
    return tmp_path / "state" / "wholegrain"


def failing(monkeypatch, capsys, error, *arguments):
    """Exit code and standard error of a command that ends with an error."""

    def command(batch: int = 64, name: str = "") -> None:
        """Fails."""
        raise error

    monkeypatch.setattr(cli, "function_of", lambda _: command)
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", *arguments])
    return stop.value.code, capsys.readouterr().err



@pytest.mark.parametrize("error", [KeyError("foo"), RuntimeError("a\nb\nc"), AssertionError(), RecursionError("deep"), GeneratorExit()])
def test_what_nobody_foresaw_is_one_sentence_with_its_trace_in_a_file(monkeypatch, capsys, state, error):
    code, said = failing(monkeypatch, capsys, error, "--name", "two words")
    assert code == 70
    assert len(said.splitlines()) == 1
    assert "Traceback" not in said
    assert "wholegrain train --name 'two words'" in said
    assert type(error).__name__ in said
    (file,) = state.iterdir()
    assert str(file) in said
    trace = file.read_text()
    assert "Traceback (most recent call last)" in trace
    assert "raise error" in trace
    assert f"torch {torch.__version__.split('+')[0]}" in trace


def test_debugging_shows_the_trace_and_writes_none(monkeypatch, capsys, state):
    monkeypatch.setenv("WHOLEGRAIN_DEBUG", "1")
    code, said = failing(monkeypatch, capsys, KeyError("foo"))
    assert code == 70
    assert "Traceback (most recent call last)" in said
    assert not state.exists()


def test_a_trace_that_cannot_be_kept_goes_elsewhere_or_is_said_to_be_lost(monkeypatch, capsys, tmp_path):
    (tmp_path / "state").write_text("a file in the way")
    monkeypatch.setattr(failures.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "temporary"))
    code, said = failing(monkeypatch, capsys, KeyError("foo"))
    assert code == 70
    assert str(tmp_path / "temporary") in said
    assert len(list((tmp_path / "temporary").iterdir())) == 1

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(failures, "_written", full)
    code, said = failing(monkeypatch, capsys, KeyError("foo"))
    assert code == 70
    assert "could not be written ([Errno 28] No space left on device)" in said
    assert len(said.splitlines()) == 1


def test_every_process_of_a_launcher_says_who_it_is_and_keeps_its_own_trace(monkeypatch, capsys, state):
    for rank in (0, 3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "4")
        _, said = failing(monkeypatch, capsys, KeyError("foo"))
        assert said.startswith(f"wholegrain (rank {rank}): ")
    assert sorted(name[-9:] for name in os.listdir(state)) == ["rank0.txt", "rank3.txt"]


MEMORY = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ..."), "The device's memory is full"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."), "memory is full"),
    (MemoryError("Unable to allocate 9 TiB"), "The machine's memory is full"),
    (MemoryError(), "The machine's memory is full"),
]


@pytest.mark.parametrize(("error", "says"), MEMORY)
def test_memory_that_is_full_names_the_batch_and_a_smaller_one(monkeypatch, capsys, state, error, says):
    code, said = failing(monkeypatch, capsys, error, "--batch", "48")
    assert code == 1
    assert says in said
    assert "--batch, now 48, such as 24" in said
    assert len(said.splitlines()) == 1
    assert not state.exists()
    assert "now 64, such as 32" in failing(monkeypatch, capsys, error)[1]  # the command's own
    assert "smaller model" in failing(monkeypatch, capsys, error, "--batch", "1")[1]


def test_the_batch_is_the_recipes_where_none_is_told():
    assert failures.batch_of({"batch": None, "recipe": "clip", "overrides": ("--optimiser.batch=96",)}) == 96
    assert failures.batch_of({"batch": 8, "recipe": "clip"}) == 8
    assert failures.batch_of({"batch": None, "recipe": "no such"}) == 0
    assert failures.batch_of({"data": "x"}) == 0


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (errno.ENOSPC, 1, "The disk is full (/data/file)"),
        (errno.EDQUOT, 1, "The disk is full (/data/file)"),
        (errno.EROFS, 2, "/data/file is on a disk that can only be read"),
        (errno.EACCES, 2, "/data/file may not be read or written"),
        (errno.ENAMETOOLONG, 2, "/data/file has a name that is too long"),
        (errno.EMFILE, 1, "are allowed); allow more, such as: ulimit -n"),
        (errno.EIO, 1, "The disk failed while /data/file"),
        (errno.ENOENT, 70, "was not foreseen"),
    ],
)
def test_what_the_operating_system_refuses(monkeypatch, capsys, number, code, says):
    found, said = failing(monkeypatch, capsys, OSError(number, os.strerror(number), "/data/file"))
    assert (found, len(said.splitlines())) == (code, 1)
    assert says in said


def test_a_library_that_ends_the_program_does_not_end_it_well(monkeypatch, capsys):
    assert failing(monkeypatch, capsys, SystemExit(0))[0] == 70
    code, said = failing(monkeypatch, capsys, SystemExit("no such tokeniser\nsee the manual"))
    assert code == 70
    assert "no such tokeniser" in said
    assert failing(monkeypatch, capsys, SystemExit(143))[0] == 143  # training that was asked to stop
    assert failing(monkeypatch, capsys, BrokenPipeError(errno.EPIPE, "Broken pipe"))[0] == 70  # of some other pipe


def test_messages_stay_on_their_line_and_command_no_terminal(monkeypatch, capsys):
    _, said = failing(monkeypatch, capsys, failures_of("first\n  second \x1b[31mred"))
    assert said == "wholegrain: first second \\x1b[31mred\n"


def failures_of(text):
    from wholegrain.errors import UserError

    return UserError(text)


def command(tmp_path, code, **more):
    """A process of the command line in which a command does what the code says."""
    script = f"import wholegrain.cli.main as m\ndef methods() -> None:\n    'Does.'\n    {code}\nm.function_of = lambda _: methods\nm.main()"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONWARNINGS", "WHOLEGRAIN_DEBUG")}
    environment |= {"XDG_STATE_HOME": str(tmp_path)} | more.pop("env", {})
    return subprocess.Popen([sys.executable, "-c", script, "methods"], stderr=subprocess.PIPE, text=True, env=environment, **more)


def test_a_reader_that_leaves(tmp_path):
    process = command(tmp_path, "print('x' * 100_000); print('y' * 100_000)", stdout=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(30) == 141


def test_ctrl_c_before_anything_is_done(tmp_path):
    here = {"stdout": subprocess.PIPE, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # a shell's background ignores it
    process = command(tmp_path, "import time; print('there', flush=True); time.sleep(60)", **here)
    assert process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.read() == "wholegrain: Interrupted.\n"
    assert process.wait(30) == 130
    process.stdout.close()


def test_libraries_do_not_warn_unless_asked(tmp_path):
    code = "import logging, warnings; logging.error('logged'); warnings.warn('old', FutureWarning); warnings.warn('older', DeprecationWarning)"
    quiet, loud = command(tmp_path, code), command(tmp_path, code, env={"WHOLEGRAIN_DEBUG": "1"})
    assert quiet.communicate(timeout=60)[1] == ""
    said = loud.communicate(timeout=60)[1]
    assert "FutureWarning: old" in said
    assert "logged" in said


def test_a_real_recursion_ends_in_a_short_sentence(tmp_path):
    began = time.monotonic()
    process = command(tmp_path, "f = lambda: f(); f()")
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 70
    assert "RecursionError" in said
    assert len(said.splitlines()) == 1
    assert time.monotonic() - began < 30


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="not Linux")
def test_output_that_cannot_be_written(tmp_path):
    with open("/dev/full", "w") as full:
        process = command(tmp_path, "print('a line')", stdout=full)
        assert process.communicate(timeout=60)[1] == "wholegrain: The disk is full (while writing); make room and run the same command again.\n"
    assert process.returncode == 1
    assert command(tmp_path, "import sys; sys.stdout = None; print('a line')").wait(60) == 0  # as with >&-
