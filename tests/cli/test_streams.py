"""Standard output as it is found, unexpected errors, signals, and how soon help is there."""

import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch

from tests.commands import ROOT, prune, run, tree
from trimformer.cli import logs
from trimformer.cli.main import COMMANDS, guarded, main
from trimformer.cli.streams import TolerantStream
from trimformer.errors import TrimformerError
from trimformer.utils.outputs import write_directory

ENTRY = [sys.executable, "-m", "trimformer"]


class Full(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def ascii_only():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


def test_characters_that_the_encoding_lacks_are_escaped():
    stream = ascii_only()
    tolerant = TolerantStream(stream)
    print("± 3 ms", file=tolerant)
    tolerant.flush()
    assert stream.buffer.getvalue() == b"\\xb1 3 ms\n"
    assert not tolerant.failure


@pytest.mark.parametrize(("stream", "says"), [(Full(), "no space left"), (Broken(), ""), (None, "closed")])
def test_a_failing_stream_records_the_error(stream, says):
    tolerant = TolerantStream(stream)
    print("text", file=tolerant)
    tolerant.flush()
    assert says in tolerant.failure
    assert bool(says) == bool(tolerant.failure)


@pytest.mark.parametrize(("stream", "code"), [(Full(), 1), (Broken(), 0), (ascii_only(), 0)])
def test_a_finished_run_is_complete_whatever_standard_output_is(
    model_dir, data, tmp_path, capsys, monkeypatch, stream, code
):
    monkeypatch.setattr(sys, "stdout", stream)
    assert run(main, "evaluate", model_dir, "--data", data, "--output", tmp_path / "x.json") == code
    assert "all" in json.loads((tmp_path / "x.json").read_text())
    assert prune(model_dir, data, tmp_path / "out") == code
    assert (tmp_path / "out" / "results.json").is_file()
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert ("the run is complete" in told) == bool(code)


def fail(error):
    def command():
        raise error

    return command


def test_an_unexpected_error_is_one_sentence_and_its_trace_a_private_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert guarded(fail(KeyError("odd\nkey"))) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: unexpected KeyError: ")
    assert line.count("\n") == 1
    (file,) = tmp_path.iterdir()
    assert str(file) in line
    assert "Traceback" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_debug_variable_prints_the_traceback(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(logs.DEBUG, "1")
    assert guarded(fail(RuntimeError("odd"))) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (TrimformerError("lone \ud800 half"), 2, "\\ud800"),
        (TrimformerError("two\nlines"), 2, "two lines"),
        (MemoryError(), 2, "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 2, "out of memory"),
        (OSError(28, "No space left on device"), 2, "full"),
        (KeyboardInterrupt(), 130, "nothing was written"),
        (KeyboardInterrupt("interrupted; there are checkpoints"), 130, "there are checkpoints"),
    ],
)
def test_every_way_to_end_has_its_exit_code_and_message(error, code, says, capsys):
    assert guarded(fail(error)) == code
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_a_terminated_run_says_so(capsys):
    def command():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    assert guarded(command) == 143
    assert capsys.readouterr().err == "terminated; nothing was written\n"


BOTH = [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]


@pytest.mark.parametrize(("number", "word"), BOTH)
def test_a_signal_counts_even_if_a_library_caught_it(number, word, capsys):
    def command():
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except BaseException:
            raise ModuleNotFoundError("Could not import module 'PreTrainedModel'") from None

    assert guarded(command) == 128 + number
    assert capsys.readouterr().err == f"{word}; nothing was written\n"
    assert guarded(fail(TrimformerError("another run"))) == 2


@pytest.mark.parametrize(("number", "word"), BOTH)
def test_a_signal_counts_even_if_python_drops_its_exception(number, word, capsys):
    """No exception leaves a callback of a weak reference, where a signal may arrive."""

    def command():
        thing = set()
        reference = weakref.ref(thing, lambda _: signal.raise_signal(number))
        del thing
        assert reference() is None
        for _ in range(1200):
            time.sleep(0.05)

    assert guarded(command) == 128 + number
    assert capsys.readouterr().err == f"{word}; nothing was written\n"


@pytest.mark.parametrize(("number", "word"), BOTH)
def test_other_exceptions_that_python_drops_are_still_reported(number, word, monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: reported.append(dropped.exc_type))

    class Failing:
        def __del__(self):
            raise KeyError("odd")

    def command():
        Failing()

    assert guarded(command) == 0
    assert reported == [KeyError]


SWALLOWED = """
import sys, types
number = int(sys.argv.pop(1))
module = types.ModuleType("transformers")
sys.meta_path.insert(0, module)
def find_spec(name, *_):
    if name == "transformers":
        import os, time
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except BaseException:
            pass
module.find_spec = find_spec
sys.argv[0] = "trimformer"
from trimformer.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "word"), BOTH)
def test_a_signal_while_libraries_are_imported_ends_the_run_at_once(number, word, model_dir, data, tmp_path):
    words = [int(number), "prune", model_dir, "--data", data, "--constraint", "0.5", "--output", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (128 + number, f"{word}; nothing was written\n")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_names_the_complete_outputs(tmp_path, capsys):
    def command(*names):
        for name in names:
            with write_directory(tmp_path / name) as directory:
                (directory / "x").touch()
        raise KeyboardInterrupt

    assert guarded(lambda: command("one")) == 130
    assert capsys.readouterr().err == f"interrupted; {tmp_path / 'one'} is complete\n"
    assert guarded(lambda: command("two", "three")) == 130
    assert capsys.readouterr().err == f"interrupted; {tmp_path / 'two'}, {tmp_path / 'three'} are complete\n"


LIGHT = """
import sys
sys.argv = ["trimformer", *sys.argv[1:]]
from trimformer.cli.main import main
try:
    code = main()
except SystemExit as error:
    code = error.code
heavy = {"torch", "transformers", "numpy", "datasets"} & set(sys.modules)
print(code, sorted(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], ["prune", "--constraint", "2", "--output", "o", "--data", "d", "m"]])
def test_help_and_bad_flags_import_nothing_heavy(words):
    done = subprocess.run([sys.executable, "-c", LIGHT, *words], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == f"{2 if len(words) > 1 else 0} []", done.stderr


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--constraint", "x"], 2)])
def test_help_of_the_papers_command_imports_nothing_heavy(words, code):
    watched = [sys.executable, "-X", "importtime", str(ROOT / "main.py"), *words]
    done = subprocess.run(watched, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == code
    assert "trimformer.cli.main" in imported
    assert not {"torch", "transformers", "numpy", "datasets"} & imported


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_in_examples_that_parse(command, capsys):
    from trimformer.cli.main import build_parser

    assert run(main, command, "--help") == 0
    printed = capsys.readouterr().out
    examples = [line.strip() for line in printed[printed.index("examples:") :].splitlines()[1:] if line.strip()]
    assert len(examples) >= 2
    for example in examples:
        name, *words = example.split()
        assert name == "trimformer"
        build_parser().parse_args(words)


def test_the_seed_is_explained(capsys):
    run(main, "prune", "--help")
    assert "same seed" in capsys.readouterr().out


def wait_for(process, seconds):
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


LEAVING = """
import atexit, sys, threading, time
from trimformer.cli.signals import leave
threading.Thread(target=time.sleep, args=(600,)).start()  # the end of the interpreter would wait for it
atexit.register(print, "cleaned up")
leave(int(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [130, 143])
def test_after_a_signal_the_process_ends_after_its_clean_up_whatever_still_runs(code):
    done = subprocess.run([sys.executable, "-c", LEAVING, str(code)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, "cleaned up\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.4, 1.5, 4, 8])
def test_a_signal_at_any_time_is_one_line_and_leaves_nothing(model_dir, data, tmp_path, number, after):
    before = tree(tmp_path)
    words = [*ENTRY, "prune", model_dir, "--data", data, "--constraint", "0.5", "--output", tmp_path / "out"]
    process = subprocess.Popen(list(map(str, words)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    time.sleep(after)
    process.send_signal(number)
    told = process.stderr.read()
    code = wait_for(process, 60)
    assert code in (0, 128 + number, -number), told
    assert "Traceback" not in told
    if (tmp_path / "out").exists():  # at its very end
        assert (tmp_path / "out" / "results.json").is_file()
        assert "nothing was written" not in told
    else:
        assert code
        assert tree(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["| true", "> /dev/full", ">&-", "2>&- >&-"])
def test_a_signal_in_a_shell_is_one_line_and_leaves_nothing(model_dir, data, tmp_path, shell):
    command = f"{sys.executable} -m trimformer evaluate {model_dir} --data {data} --output {tmp_path}/x.json {shell}"
    environment = {**os.environ, "LANG": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, env=environment)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert Path(tmp_path / "x.json").is_file(), done.stderr


def test_control_characters_of_names_never_reach_the_terminal():
    stream = io.StringIO()
    TolerantStream(stream, escaped=True).write("a\x1b[31m\tb\r\x9b\n")
    assert stream.getvalue() == "a\\x1b[31m\tb\\r\\x9b\n"
