"""What is opened, started or connected to: Python's own audit events, in a process that tells all."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import portable_bp

pytest.importorskip("safetensors.numpy", reason="needs the extra [io]")

WATCHED = """
import json, os, sys
seen = []
STARTED = ("exec", "import", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove")
def hook(event, arguments):
    if event == "open":
        seen.append(["open", str(arguments[0]), arguments[1]])
    elif event in STARTED or event.split(".")[0] in ("subprocess", "socket", "ctypes", "pickle"):
        seen.append([event])
"""

LOAD = """
import portable_bp
portable_bp.load(sys.argv[2])  # whatever is imported on the way
sys.addaudithook(hook)
try:
    portable_bp.load(sys.argv[1])
    outcome = "loaded"
except portable_bp.CheckpointError as error:
    outcome = "refused"
print(json.dumps([outcome, list(seen)]), flush=True)
os._exit(0)
"""

TRAIN = """
from portable_bp.cli import run
run(sys.argv[1:])  # whatever is imported on the way
sys.addaudithook(hook)
code = run(sys.argv[1:])
print(json.dumps([code, list(seen)]), flush=True)
os._exit(0)
"""


def watched(code: str, *arguments: Any, cwd: Path | None = None) -> tuple[Any, list[Any]]:
    """The outcome, and every file that was opened with its mode, every import, start and connection."""
    command = [sys.executable, "-c", WATCHED + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    outcome, events = json.loads(done.stdout.splitlines()[-1])
    return outcome, events


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    net = portable_bp.MLP([2, 3, 1])
    model = portable_bp.fit(net, np.eye(2), [0.0, 1.0], epochs=1)
    model.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_loading_opens_one_file_for_reading_and_does_nothing_else(saved: Path) -> None:
    outcome, events = watched(LOAD, saved, saved)
    assert outcome == "loaded"
    assert events == [["open", str(saved), "r"]]


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_refused_by_its_first_bytes(saved: Path, protocol: int) -> None:
    other = saved.with_name("other.safetensors")
    other.write_bytes(pickle.dumps({"W1": np.ones(3), "run": print}, protocol))
    outcome, events = watched(LOAD, other, saved)
    assert outcome == "refused"
    assert events == [["open", str(other), "r"]]  # nothing was unpickled, nothing imported


@pytest.mark.parametrize("name", ["relu", "os.system", "../../etc/passwd", "__import__('os')"])
def test_names_in_a_file_are_only_looked_up_in_tables(saved: Path, name: str) -> None:
    """Signed with a digest that is right, as an attacker would."""
    from portable_bp.persistence import container

    arrays, metadata = container.read(saved)
    metadata["network"]["hidden"] = [{"name": name}]
    other = saved.with_name("other.safetensors")
    container.write(other, arrays, metadata)
    outcome, events = watched(LOAD, other, saved)
    assert outcome == ("loaded" if name == "relu" else "refused")
    assert events == [["open", str(other), "r"]]


def test_the_command_line_opens_what_it_is_told_to(tmp_path: Path) -> None:
    """The table is read, the model is written; nothing is started, no connection is made."""
    pytest.importorskip("click", reason="needs the extra [cli]")
    home = tmp_path / "here"
    home.mkdir()
    rows = np.random.default_rng(0).normal(size=(40, 3))
    np.savetxt(home / "t.csv", rows, delimiter=",", header="a,b,c", comments="")
    (home / "secret").write_text("nobody asked for this")
    code, events = watched(
        TRAIN, "train", "t.csv", "--target", "c", "--epochs", "2", "--quiet",
        "--output", "out.safetensors", "--backend", "numpy", cwd=home,
    )  # fmt: skip
    assert code == 0
    opened = {str(Path(home, e[1]).relative_to(home)): e[2] for e in events if e[0] == "open"}
    made = {name: mode for name, mode in opened.items() if name.endswith(".tmp")}
    assert {name.split(".")[1] for name in made} == {"out", "probe"}
    assert {k: v for k, v in opened.items() if k not in made} == {"t.csv": "r", ".": None}  # fsync
    # A compiled step is a program of our own; the probe is removed.
    assert {e[0] for e in events} <= {"open", "exec", "os.remove"}
    assert sorted(p.name for p in home.iterdir()) == ["out.safetensors", "secret", "t.csv"]
