"""Is the suite any good? Plants bugs one at a time and shows which test notices each.

``make mutants``, or ``python tools/mutants.py [words of a name ...]``. The package and its tests are
copied to a temporary directory; in the copy a piece of text is replaced, the tests that lie nearest
run, and if they notice nothing, all of them. Exit code 1 when a bug survives.

The bugs stand in ``tools/bugs/*.toml``, one ``[[bug]]`` each:

    name = "sign(0) = 1"
    old = 'dW + l1 * xp.sign(W)'        # occurs exactly once in the sources, wherever that is
    new = 'dW + l1 * xp.sign(W + 1)'
    tests = ["test_gradients.py -k slope_of"]   # those nearest, with pytest's options

Files are found by what stands in them, so that moving code breaks no entry: ``file`` (the end of a
path) is needed only where the text stands in several files, and likewise the folder of a test file. A
text of several lines matches whole lines at any indentation (the last may be a beginning).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUGS = Path(__file__).with_name("bugs")
COPIED = (
    "portable_bp",
    "backends",
    "tests",
    "tools",
    "benchmarks",
    "docs",
    "pyproject.toml",
    "README.md",
)
SOURCES = ("portable_bp", "backends")
PACKAGES = ("portable_bp", "portable_bp_backends")
WORKERS = 2
SECONDS = 600
PLANTED = "test_mutants.py"
EVERYTHING = (
    "tests/equivalence", "test_gradients.py", "test_known_answers.py", "test_optimizers.py",
    "test_fit.py",
)  # fmt: skip

EMULATED = ("-p", "tests.emulated_gpu.plugin", "--backends", "cupy,cupy:1")
"""How pytest is told to run a file of tests/emulated_gpu."""


@cache
def files(folder: Path) -> dict[Path, str]:
    """The Python files below ``folder``, and their texts."""
    return {path: path.read_text() for path in sorted(folder.rglob("*.py"))}


def located(root: Path, tests: str) -> list[str]:
    """``tests`` as arguments of pytest: with the path of its file, or folder, below ``root``."""
    name, *options = shlex.split(tests)
    if (root / name).exists():
        return [name, *options]
    paths = [path for path in files(root / "tests") if str(path).endswith(f"/{name}")]
    if len(paths) != 1:
        raise ValueError(f"{name} is the end of {len(paths)} paths, not of one")
    if paths[0].parent.name == "emulated_gpu":
        options = [*EMULATED, *options]
    return [str(paths[0].relative_to(root)), *options]


@dataclass(frozen=True)
class Mutant:
    """A bug: ``old`` occurs exactly once in the sources and becomes ``new``."""

    name: str
    old: str
    new: str
    tests: tuple[str, ...]
    file: str = ".py"

    def sources(self, root: Path) -> dict[Path, str]:
        """The files it may be in."""
        end = self.file if self.file == ".py" else f"/{self.file}"
        return {
            path: text
            for package in SOURCES
            for path, text in files(root / package).items()
            if str(path).endswith(end)
        }

    def planted(self, root: Path) -> tuple[Path, str]:
        """The file, and its text with the bug in it."""
        lines = self.old.strip("\n").split("\n")
        whole = r"(?m:^)" if len(lines) > 1 else ""  # otherwise a piece of a line
        pattern = whole + r"(?P<indent> *)" + "\n(?P=indent)".join(map(re.escape, lines))
        pattern = pattern.replace("\n(?P=indent)\n", "\n\n")
        places = [
            (path, text, match)
            for path, text in self.sources(root).items()
            if lines[0].strip() in text
            for match in re.finditer(pattern, text)
        ]
        if len(places) != 1 or self.old == self.new:
            paths = ", ".join(sorted({str(path.relative_to(root)) for path, _, _ in places}))
            raise ValueError(f"{self.name}: its text occurs {len(places)} times, not once: {paths}")
        ((path, text, match),) = places
        new = re.sub(r"\n(?=.)", "\n" + match["indent"], self.new.strip("\n"))
        return path, text[: match.start()] + match["indent"] + new + text[match.end() :]


def read(folder: Path = BUGS) -> tuple[Mutant, ...]:
    """All bugs of the data files."""
    entries = [
        bug
        for path in sorted(folder.glob("*.toml"))
        for bug in tomllib.loads(path.read_text())["bug"]
    ]
    return tuple(Mutant(**{**bug, "tests": tuple(bug["tests"])}) for bug in entries)


MUTANTS = read()


class Copy:
    """A copy of the package and its tests to plant bugs in."""

    def __init__(self, where: Path) -> None:
        self.root = where
        where.mkdir()
        no_caches = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info")
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, where / name, ignore=no_caches)
            else:
                shutil.copy(ROOT / name, where / name)
        paths = [str(where), str(where / "backends")]
        # No compiled files: two texts of one length within a second would look the same.
        self.environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
            "EMULATED_GPU_CACHE": str(ROOT / "build" / "emulated_gpu"),
        }  # fmt: skip
        for package in PACKAGES:
            found = self.python("-c", f"import {package}; print({package}.__file__)").stdout
            if not found.startswith(str(where)):
                raise RuntimeError(f"the copy is not what is imported: {found}")

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], env=self.environment, cwd=self.root, capture_output=True,
            text=True, timeout=SECONDS,
        )  # fmt: skip

    def failing(self, *tests: str) -> str:
        """The first test that fails; empty when all pass.

        The test that all bugs can be planted is left out: it would notice one that is.
        """
        options = (
            f"--ignore-glob=*/{PLANTED}",
            "-x",
            "-q",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow",
            "--tb=no",
        )
        try:
            arguments = [word for t in tests for word in located(self.root, t)]
            done = self.python("-m", "pytest", *options, *arguments)
        except subprocess.TimeoutExpired:
            return f"(no end after {SECONDS} s)"
        if done.returncode == 0:
            return ""
        found = re.search(r"^(?:FAILED|ERROR) (\S+(?: [^-]\S*)*)", done.stdout, re.MULTILINE)
        if done.returncode != 1 or found is None or "::" not in found[1]:
            raise RuntimeError(f"the tests did not run: {tests}\n{done.stdout}{done.stderr}")
        return found[1]

    def verdict(self, mutant: Mutant) -> str:
        """The test that notices the bug; empty when none does."""
        path, text = mutant.planted(self.root)
        sound = path.read_text()
        path.write_text(text)
        try:
            for tests in (*((t,) for t in mutant.tests), EVERYTHING):
                found = self.failing(*tests)
                if found:
                    return found
            return ""
        finally:
            path.write_text(sound)


def main(words: Sequence[str]) -> int:
    chosen = [m for m in MUTANTS if not words or any(w in m.name for w in words)]
    print(f"{len(chosen)} bugs, one at a time\n", flush=True)
    began, survivors = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        free = [Copy(Path(folder) / f"copy{i}") for i in range(WORKERS)]
        lock = threading.Lock()

        def judge(mutant: Mutant) -> str:
            with lock:
                copy = free.pop()
            try:
                return copy.verdict(mutant)
            finally:
                free.append(copy)

        # Tests that fail on sound code would notice everything.
        with ThreadPoolExecutor(WORKERS) as pool:
            nearest = dict.fromkeys(shlex.split(tests)[0] for m in chosen for tests in m.tests)
            sound = Copy(Path(folder) / "sound")
            for failed in pool.map(sound.failing, nearest):
                if failed:
                    print(f"{failed} fails without any bug")
                    return 2
            width = max(len(m.name) for m in chosen)
            for mutant, test in zip(chosen, pool.map(judge, chosen), strict=True):
                print(f"{mutant.name:{width}}  {test or 'SURVIVES'}", flush=True)
                if not test:
                    survivors.append(mutant)
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} noticed, "
          f"{time.perf_counter() - began:.0f} s")  # fmt: skip
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
