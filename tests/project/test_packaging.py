"""What users install: the wheel, in a fresh environment, without the source on the path."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def call(*command, **options):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True, text=True, timeout=600, env=environment, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: a build leaves files beside the source, and takes up those of an old one."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("portable_bp", "backends"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check")
    call(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder)
    (found,) = folder.glob("portable_bp-*.whl")
    return found


def environment(folder, wheel, *, borrow):
    """The Python of a new environment with the wheel in it.

    ``borrow``: the libraries are those of this environment, by a path file, which takes up packages
    and not what is installed in place; otherwise they are downloaded.
    """
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    pip = (*pip, "--disable-pip-version-check")
    if borrow:
        (site,) = folder.glob("**/site-packages")
        paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (site / "borrowed.pth").write_text("\n".join(sorted(paths)) + "\n")
        call(*pip, "--no-deps", "--no-index", wheel)
    else:
        call(*pip, "-c", ROOT / "constraints.txt", f"{wheel}[cli]")
    return python


def test_the_wheel_holds_both_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"portable_bp", "portable_bp_backends"}
    for package, folder in (("portable_bp", ROOT), ("portable_bp_backends", ROOT / "backends")):
        sources = {
            p.relative_to(folder).as_posix()
            for p in (folder / package).rglob("*")
            if p.suffix == ".py" or p.name == "py.typed"
        }
        assert sources <= set(names)
    assert any(name.endswith("LICENSE") for name in names)


@pytest.mark.parametrize(
    "borrow", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["borrowed", "downloaded"]
)
def test_train_and_predict_with_the_installed_wheel(wheel, tmp_path, borrow):
    python = environment(tmp_path / "env", wheel, borrow=borrow)
    where = "import portable_bp, portable_bp_backends as b; print(portable_bp.__file__, b.__path__)"
    found = call(python, "-c", where, cwd=tmp_path)
    assert found.count(str(tmp_path)) == 2
    assert str(ROOT) not in found
    command = python.with_name("portable-bp")
    told = json.loads(call(command, "train", "digits", "--json", cwd=tmp_path))
    assert told["test_accuracy"] >= 0.97
    predict = (command, "predict", "model.safetensors", "digits", "--backend", "numpy")
    rows = call(*predict, cwd=tmp_path).splitlines()
    assert (rows[0], len(rows)) == ("digit", 1798)
    assert "numpy" in call(command, "info", cwd=tmp_path)
