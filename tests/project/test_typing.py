"""What users write without a cast passes their type checkers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = Path(__file__).parent / "data" / "user_code.py"
PATHS = [str(ROOT), str(ROOT / "backends")]


def checked(folder: Path, checker: str, code: str) -> tuple[int, str]:
    """The exit code and the output of a type checker for a file of a user's, in its own folder."""
    file = folder / "user_code.py"
    file.write_text(code, encoding="utf-8")
    if checker == "mypy":
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", file.name]
        command += ["--follow-imports=silent"]  # as for what is installed
        command += ["--cache-dir", str(ROOT / ".mypy_cache" / "user_code")]
    else:
        settings = {"extraPaths": PATHS, "typeCheckingMode": "standard"}
        (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
        script = shutil.which("basedpyright", path=os.path.dirname(sys.executable))
        assert script, "basedpyright is not installed"
        command = [script, "--pythonpath", sys.executable, file.name]
    environment = {**os.environ, "MYPYPATH": os.pathsep.join(PATHS)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


WRONG = """
wrong: str = model.predict(X)
net.no_such_method()
portable_bp.fit(net, X, y, epocs=2)
"""


@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_user_code(checker: str, tmp_path: Path) -> None:
    """Only the wrong lines are errors; without them everything might be Any, and nothing be said."""
    code = CODE.read_text("utf-8")
    status, output = checked(tmp_path, checker, code + WRONG)
    assert status == 1, output
    lines = [int(n) for n in re.findall(r"user_code\.py:(\d+)(?::\d+)?:? (?:- )?error", output)]
    first = code.count("\n") + 1
    assert sorted(set(lines)) == [first + 1, first + 2, first + 3], output
