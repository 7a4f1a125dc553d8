"""Places as they are found: no home, no caches, no working directory, letters that few expect in a path."""

import json
import os
import subprocess
import sys

import pytest

from tests.commands import error_line, problem_rows, run, save_model, tree, write_jsonl
from trimformer.cli.main import main

# What runs in each place: words, and what is there then.
COMMANDS = {
    "prune": (["prune", "MODEL", "--data", "DATA", "--constraint", "0.5", "--output", "OUT"], "OUT/results.json"),
    "sweep": (["sweep", "MODEL", "--data", "DATA", "--constraints", "0.5", "--output", "OUT"], "OUT/family.json"),
    "evaluate": (["evaluate", "MODEL", "--data", "DATA", "--output", "OUT"], "OUT"),
}
FEW = ["--num-samples", "8"]

NAMES = [
    "with some spaces",
    "of two\nlines",
    "naïve-模型-😀",
    "quo'te\"d",
    "{curly} %s",
    "-dash",
    "ends in.jsonl",
    "a" * 120,
]


def words_of(command, folder, out):
    """The command's words and the file that it makes, with the places filled in."""
    places = {"MODEL": folder / "model", "DATA": folder / "rows.jsonl", "OUT": out}
    words, made = COMMANDS[command]
    filled = [str(places.get(word, word)) for word in words] + (FEW if command != "evaluate" else [])
    return filled, made.replace("OUT", str(out))


def furnish(folder):
    """A model and data in a folder."""
    save_model(folder / "model", num_hidden_layers=2)
    write_jsonl(folder / "rows.jsonl", problem_rows("single_label", 16))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_a_path_whatever_its_letters(name, tmp_path):
    folder = furnish(tmp_path / name)
    for command in COMMANDS:
        words, made = words_of(command, folder, folder / f"{command} {name}")
        assert run(main, *words) == 0
        assert os.path.isfile(made)
    arguments = json.loads((folder / f"prune {name}" / "results.json").read_text())["arguments"]
    assert arguments["model"] == str(folder / "model")
    assert run(main, "evaluate", folder / f"prune {name}", "--data", folder / "rows.jsonl") == 0


ODD = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("command", COMMANDS)
def test_data_and_scores_may_have_names_that_are_no_unicode(command, tmp_path):
    folder = furnish(tmp_path / "in")
    data = (folder / "rows.jsonl").rename(tmp_path / f"{ODD}.jsonl")
    words, made = words_of(command, folder, tmp_path / (ODD if command == "evaluate" else "out"))
    assert run(main, *[data if word == str(folder / "rows.jsonl") else word for word in words]) == 0
    assert os.path.isfile(made)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_path_that_is_not_unicode_is_refused(command, tmp_path, capsys):
    folder, odd = furnish(tmp_path / "in"), tmp_path / ODD
    odd.mkdir()
    (odd / "link").symlink_to(folder)
    before = tree(tmp_path)
    tried = [words_of(command, odd / "link", tmp_path / "out")[0]]
    if command != "evaluate":  # it writes a file, which may be called anything
        tried.append(words_of(command, folder, odd / "out")[0])
    for words in tried:
        capsys.readouterr()
        assert run(main, *words) == 2
        assert "name that is not Unicode" in error_line(capsys.readouterr().err)
    assert tree(tmp_path) == before


@pytest.fixture
def gone(tmp_path, monkeypatch):
    """A working directory that is removed."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_deleted_working_directory_is_an_error(command, tmp_path, gone, capsys):
    words, made = words_of(command, furnish(tmp_path / "in"), tmp_path / "out")
    assert run(main, *words) == 2
    assert "working directory" in error_line(capsys.readouterr().err)
    assert not os.path.exists(made)


def test_a_deleted_working_directory_is_an_error_in_a_process_of_its_own(tmp_path, gone):
    command = [sys.executable, "-m", "trimformer", *words_of("prune", furnish(tmp_path / "in"), tmp_path / "out")[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "working directory" in error_line(done.stderr)


# All commands in one process of its own, as libraries look for their places when they are imported.
ALL = """
import json, sys
commands = json.load(sys.stdin)
from trimformer.cli.main import main
print([main(words) for words in commands])
"""

CACHES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")


@pytest.mark.slow
@pytest.mark.parametrize("no_caches", [False, True], ids=["no home", "no caches"])
def test_what_libraries_want_to_keep_is_not_needed(no_caches, tmp_path):
    folder = furnish(tmp_path / "naïve in")
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file" / "home")  # below a file: not even root can make it
    kept = {key: value for key, value in os.environ.items() if key not in CACHES}
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    environment = {**kept, "PYTHONPATH": paths, "LC_ALL": "C", "HOME": nowhere}
    commands = [words_of(command, folder, tmp_path / f"{command} où") for command in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", ALL],
        input=json.dumps([words for words, _ in commands]),
        env=environment | (dict.fromkeys(CACHES, nowhere) if no_caches else {}),
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout.endswith("[0, 0, 0]\n"), (done.stdout, done.stderr)
    assert all(os.path.isfile(made) for _, made in commands)
