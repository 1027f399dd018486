"""What users install: the wheel, in a fresh environment, without the source on the path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def call(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=600, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (found,) = folder.glob("portable_bp-*.whl")
    return found


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


def test_train_and_predict_with_the_installed_wheel(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    constraints = ROOT / "constraints.txt"
    call(python, "-m", "pip", "install", "--quiet", "-c", constraints, f"{wheel}[cli]")
    where = call(python, "-c", "import portable_bp; print(portable_bp.__file__)", cwd=tmp_path)
    assert str(tmp_path) in where
    command = python.with_name("portable-bp")
    told = json.loads(call(command, "train", "digits", "--json", cwd=tmp_path))
    assert told["test_accuracy"] >= 0.97
    assert (tmp_path / "model.safetensors").exists()
    assert "numpy" in call(command, "info", cwd=tmp_path)
