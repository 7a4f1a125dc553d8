"""What is built is what is installed: the wheel by itself, and the wheel that comes of the source archive."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("package")]


def call(*words, cwd):
    """Runs a command that knows nothing of this checkout."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([str(w) for w in words], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(source, kind, target):
    """The wheel or source archive of a project's folder, made as installers make it."""
    target.mkdir()
    call(sys.executable, "-c", f"from setuptools import build_meta as b; b.build_{kind}({str(target)!r})", cwd=source)
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel, source archive, and the wheel made from that."""
    folder = tmp_path_factory.mktemp("built")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "shared", "demo-output")
    shutil.copytree(ROOT, folder / "copy", ignore=ignored)
    archive = build(folder / "copy", "sdist", folder / "sdist")
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return build(folder / "copy", "wheel", folder / "wheel"), archive, build(unpacked, "wheel", folder / "again")


def contents(wheel):
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_the_wheel_holds_the_package_and_its_licence_and_nothing_else(built):
    source = ROOT / "src/trimformer"
    files = [*source.rglob("*.py"), *source.glob("reporting/page/templates/*")]
    package = {str(p.relative_to(ROOT / "src")) for p in files}
    names = set(contents(built[0]))
    information = {name for name in names if ".dist-info/" in name}
    assert names - information == {*package, "trimformer/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in information)


def test_the_source_archive_builds_the_same_wheel(built):
    assert contents(built[2]) == contents(built[0])


def test_an_installed_wheel_prunes_and_loads(built, tmp_path, model_dir, data):
    call(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", built[0],
         cwd=tmp_path)  # fmt: skip
    # Not before: pip would find the trimformer of this environment. One path file does not lead to others.
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = tmp_path / "venv/bin/trimformer"
    assert "prune" in call(command, "--help", cwd=tmp_path)
    call(command, "prune", model_dir, "--data", data, "--constraint", "0.5", "--num-samples", "8", "--output", "out",
         cwd=tmp_path)  # fmt: skip
    code = "import trimformer; print(trimformer.__file__); trimformer.load('out')"
    assert call(python, "-c", code, cwd=tmp_path).strip() == str(packages / "trimformer/__init__.py")
