"""Outputs appear whole or not at all, one run at a time, and what a killed run left is cleared."""

import errno
import fcntl
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.commands import tree
from trimformer.errors import TrimformerError
from trimformer.utils.output_lock import OutputLock
from trimformer.utils.outputs import (
    check_collection,
    check_file,
    check_output,
    lock_collection,
    lock_file,
    lock_output,
    write_directory,
)
from trimformer.utils.temp_dirs import temporary_directory

# Writes an output, and waits to be killed: in the work folder, while it is moved, or before the folder is removed.
WRITER = """
import os, sys, time
from pathlib import Path
place, moment = sys.argv[1:]
sys.argv = ["trimformer"]  # as the command line, it imports nothing of PyTorch
from trimformer.utils import output_lock
from trimformer.utils.outputs import lock_output, write_directory
def wait(*_):
    print("ready", flush=True)
    time.sleep(60)
if moment == "moved":
    rename = Path.rename
    def once(self, target):
        rename(self, target)
        wait()
    Path.rename = once
if moment == "done":
    output_lock.OutputLock.release = wait
with lock_output(place):
    with write_directory(place) as directory:
        for name in "abc":
            (directory / name).write_text(name * 1000)
        if moment == "writing":
            wait()
"""


NO_FLOCK = """
import errno, fcntl
def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = refuse
"""


def killed(place, moment, program=WRITER):
    """A run that waits at that moment, to be killed."""
    words = [sys.executable, "-c", program, str(place), moment]
    run = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "ready\n"
    return run


def kill(run):
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()


@pytest.fixture
def no_flock(monkeypatch):
    """A file system without locks, as some network file systems are."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def write(place, names="xy"):
    with write_directory(place) as directory:
        for name in names:
            (directory / name).write_text(name)


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("moment", ["writing", "moved"])
def test_what_a_killed_run_left_is_cleared_by_the_next(tmp_path, exists, moment):
    place = tmp_path / "out"
    if exists:
        place.mkdir()
    run = killed(place, moment)
    with pytest.raises(TrimformerError, match=r"another run|not empty"):
        write(place)
    kill(run)
    if moment == "moved" and not exists:  # complete, but for what is hidden beside
        with pytest.raises(TrimformerError, match="not empty"):
            write(place)
        assert tree(tmp_path) == {"out", "out/a", "out/b", "out/c"}
        return
    assert any(name.endswith(".trimformer-part") for name in tree(tmp_path))
    check_output(place)
    write(place)
    assert tree(tmp_path) == {"out", "out/x", "out/y"}


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("step", [check_output, write])
def test_a_refusal_of_a_complete_output_clears_what_its_killed_run_left(tmp_path, exists, step):
    place = tmp_path / "out"
    if exists:
        place.mkdir()
    run = killed(place, "done")
    with pytest.raises(TrimformerError, match=r"another run|not empty"):
        step(place)
    assert any(name.endswith(".trimformer-part") for name in tree(tmp_path))  # it is still the run's
    kill(run)
    with pytest.raises(TrimformerError, match="not empty"):
        step(place)
    assert tree(tmp_path) == {"out", "out/a", "out/b", "out/c"}


def test_a_refusal_of_a_complete_file_clears_what_its_killed_run_left(tmp_path):
    place, work = tmp_path / "out", tmp_path / ".out.trimformer-part"
    place.write_text("complete")
    work.mkdir()
    (work / "lock").touch()
    with pytest.raises(TrimformerError, match="exists already"):
        check_file(place)
    assert tree(tmp_path) == {"out"}


def test_a_second_run_to_the_same_output_fails_before_the_work(tmp_path):
    place = tmp_path / "a" / "out"
    with lock_output(place):
        found: list[str] = []

        def other():
            try:
                with lock_output(place):
                    found.append("both")
            except TrimformerError as error:
                found.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert "being written by another run" in found[0]
        assert len(found) == 1
        write(place)
    assert tree(tmp_path) == {"a", "a/out", "a/out/x", "a/out/y"}


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize("exists", [False, True])
def test_without_locks_a_second_run_fails_and_nothing_hidden_stays(tmp_path, exists):
    place = tmp_path / "out"
    if exists:
        place.mkdir()
    with lock_output(place):
        with pytest.raises(TrimformerError, match="may be another run's"):
            OutputLock(place, "directory").acquire()
        write(place)
    assert tree(tmp_path) == {"out", "out/x", "out/y"}


def test_without_locks_what_a_killed_run_left_is_cleared_by_the_next(tmp_path, no_flock):
    run = killed(tmp_path / "out", "writing", NO_FLOCK + WRITER)
    with pytest.raises(TrimformerError, match="may be another run's"):
        write(tmp_path / "out")
    kill(run)
    write(tmp_path / "out")
    assert tree(tmp_path) == {"out", "out/x", "out/y"}


def test_without_locks_temporary_folders_work(tmp_path, monkeypatch, no_flock):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary_directory() as first, temporary_directory() as second:
        assert first.is_dir()
        assert second.is_dir()
    assert not tree(tmp_path)


@pytest.mark.parametrize("attempt", range(5))
def test_of_concurrent_saves_one_wins_and_the_others_raise(tmp_path, attempt):
    barrier, won, lost = threading.Barrier(4), [], []

    def save(name):
        barrier.wait()
        try:
            with write_directory(tmp_path / "out") as directory:
                (directory / name).write_text(name)
                time.sleep(0.01)
            won.append(name)
        except TrimformerError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=save, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 3
    assert all("another run" in told or "not empty" in told for told in lost)
    assert tree(tmp_path) == {"out", f"out/{won[0]}"}


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing(tmp_path, exists, error):
    place = tmp_path / "new" / "out"
    if exists:
        place.mkdir(parents=True)
    before = tree(tmp_path)

    def fail():
        with lock_output(place), write_directory(place) as directory:
            (directory / "a").write_text("a")
            raise error

    with pytest.raises(error):
        fail()
    assert tree(tmp_path) == before


def test_an_error_while_it_is_moved_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    rename = Path.rename

    def once(self, target):
        monkeypatch.undo()
        rename(self, target)
        raise KeyboardInterrupt

    def interrupted():
        with write_directory(tmp_path / "out") as directory:
            for name in "abc":
                (directory / name).write_text(name)
            monkeypatch.setattr(Path, "rename", once)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert tree(tmp_path) == {"out"}


def test_a_config_is_moved_last_so_that_no_half_model_loads(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    order, rename = [], Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, target: (order.append(self.name), rename(self, target))[1])
    write(tmp_path / "out", ["config.json", "model.safetensors", "a"])
    assert order[-1] == "config.json"


def test_an_unfinished_output_is_readable_only_by_its_owner(tmp_path):
    with write_directory(tmp_path / "out") as directory:
        assert stat.S_IMODE(directory.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_planted_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    (victim / "made").mkdir(parents=True)
    work = OutputLock(tmp_path / "out", "directory").work
    work.symlink_to(victim)
    with pytest.raises(TrimformerError, match="is a link"):
        write(tmp_path / "out")
    assert tree(victim) == {"made"}


def test_a_list_of_what_was_moved_removes_nothing_elsewhere(tmp_path):
    (tmp_path / "precious").write_text("x")
    (tmp_path / "out").mkdir()
    work = OutputLock(tmp_path / "out", "directory").work
    work.mkdir()
    (work / "moved").write_text(json.dumps(["../precious", "/etc/passwd", 7, "a"]))
    write(tmp_path / "out")
    assert (tmp_path / "precious").read_text() == "x"


def test_names_of_every_kind_are_written(tmp_path):
    for name in ("a b", "zwölf\nzeilen", "n" * 250, ".hidden", "-x"):
        write(tmp_path / name)
        assert tree(tmp_path / name) == {"x", "y"}
    odd = os.fsdecode(b"caf\xe9")  # no Unicode, and so nothing for a tokenizer
    with lock_file(tmp_path / odd) as give:
        give("scores")
    with pytest.raises(TrimformerError, match="name that is not Unicode"):
        write(tmp_path / f"{odd} too")
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("place", ["", "\0", "x" * 256])
def test_a_place_without_a_name_is_refused_before_anything(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    for claim in (lock_output, lock_file):
        with pytest.raises(TrimformerError), claim(place):
            pytest.fail("locked_output")
    for check in (check_output, check_file):
        if place != "":
            with pytest.raises(TrimformerError):
                check(place)
    assert not tree(tmp_path)


def test_a_file_appears_whole_and_never_over_another(tmp_path):
    place = tmp_path / "scores.json"
    with lock_file(place) as give:
        assert not place.exists()
        give("one")
    assert place.read_text() == "one"
    assert tree(tmp_path) == {"scores.json"}
    with pytest.raises(TrimformerError, match="exists already"), lock_file(place):
        pytest.fail("locked_output")
    assert place.read_text() == "one"


def test_a_file_that_came_in_between_stays(tmp_path):
    place = tmp_path / "scores.json"

    def late():
        with lock_file(place) as give:
            place.write_text("theirs")
            give("ours")

    with pytest.raises(TrimformerError, match="exists already"):
        late()
    assert place.read_text() == "theirs"
    assert tree(tmp_path) == {"scores.json"}


FULL = """
import resource, sys
from pathlib import Path
sys.argv = ["trimformer"]
from trimformer.errors import TrimformerError
from trimformer.utils.outputs import write_directory
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    with write_directory("out") as directory:
        for _ in range(100):
            with open(directory / "a", "ab") as file:
                file.write(b"x" * 1000)
except TrimformerError as error:
    print(error)
"""


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)
    done = subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "output directory 'out' cannot be written: file too large" in done.stdout, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert not tree(tmp_path)


SCRATCH = """
import sys, time
sys.argv = ["trimformer"]
from trimformer.utils.temp_dirs import temporary_directory
with temporary_directory() as folder:
    (folder / "spilled").write_bytes(b"x" * 1000)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_temporary_files_of_a_killed_run_go_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-c", SCRATCH]
    run = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    assert run.stdout.readline() == "ready\n"
    with temporary_directory() as folder:  # a run beside it lets it be
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert len(list(tmp_path.iterdir())) == 2
    kill(run)
    assert len(list(tmp_path.iterdir())) == 1
    with temporary_directory() as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert not tree(tmp_path)


def test_a_folder_with_the_prefix_but_no_lock_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "trimformer-scratch-mine").mkdir()
    (tmp_path / "trimformer-scratch-link").symlink_to(tmp_path)
    with temporary_directory():
        pass
    assert tree(tmp_path) >= {"trimformer-scratch-mine", "trimformer-scratch-link"}


def lock_in_a_thread(lock, place):
    """The error of another thread's attempt to lock a place; "" if it succeeded."""
    errors = []

    def attempt():
        try:
            with lock(place):
                errors.append("")
        except TrimformerError as error:
            errors.append(str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return errors[0]


@pytest.mark.parametrize("exists", [False, True])
def test_a_collection_and_a_whole_directory_exclude_each_other(tmp_path, exists):
    place = tmp_path / "new" / "out"
    if exists:
        place.mkdir(parents=True)
    before = tree(tmp_path)
    busy = f"output directory '{place}' is being written by another run; wait for it, or choose another"
    for first, second in ((lock_collection, lock_output), (lock_output, lock_collection), (lock_collection,) * 2):
        with first(place):
            assert lock_in_a_thread(second, place) == busy
            assert lock_in_a_thread(second, tmp_path / "other") == ""
        assert tree(tmp_path) == before


def test_a_collection_keeps_its_members_and_loses_what_killed_runs_left(tmp_path):
    place = tmp_path / "out"
    with lock_collection(place):
        write(place / "one")
    (place / ".family.json.trimformer-part").write_text("half")
    run = killed(place / "two", "done")
    kill(run)  # complete, but its work folder stays
    (place / ".theirs.trimformer-part").mkdir()
    (place / ".theirs.trimformer-part" / "mine.txt").write_text("x")
    (place / ".link.trimformer-part").symlink_to(tmp_path)
    assert (place / ".two.trimformer-part" / "lock").exists()
    run = killed(place / "three", "writing")
    assert "being written by another run" in lock_in_a_thread(lock_collection, place)
    kill(run)
    with lock_collection(place):
        assert (place / ".out.trimformer-part").is_dir()
    expected = {"one/x", "one/y", "two/a", "two/b", "two/c", ".theirs.trimformer-part/mine.txt"}
    assert {name for name in tree(place) if (place / name).is_file()} == expected
    assert (place / ".link.trimformer-part").is_symlink()


def test_a_collection_of_a_killed_run_is_locked_again(tmp_path):
    place = tmp_path / "out"
    run = killed(place, "inside", COLLECTION)
    assert "being written by another run" in lock_in_a_thread(lock_output, place)
    kill(run)
    with lock_collection(place):
        pass
    assert tree(place) == {"member"}


COLLECTION = """
import sys, time
place = sys.argv[1]
sys.argv = ["trimformer"]
from pathlib import Path
from trimformer.utils.outputs import lock_collection
with lock_collection(place):
    (Path(place) / "member").mkdir()
    print("ready", flush=True)
    time.sleep(60)
"""


def test_an_output_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.W_OK and access(path, mode))  # also for root
    for check in (check_output, check_collection):
        with pytest.raises(TrimformerError, match="cannot be read, so whether it is empty is unknown"):
            check(tmp_path / "out")
