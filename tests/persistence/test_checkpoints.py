"""The directory of checkpoints: one writer, the last few kept, the newest valid one found.

Kills, full disks and read-only directories are in ``test_container.py``, with the other faults.
"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portable_bp.errors import CheckpointError, CheckpointWarning
from portable_bp.persistence import atomic, container
from portable_bp.persistence.checkpoints import MAX_STEP, CheckpointDirectory

pytest.importorskip("safetensors.numpy", reason="needs the extra [io]")


def save(runs: CheckpointDirectory, *steps: int) -> None:
    for step in steps:
        assert runs.save(step, {"W": np.full(3, step)}, {"step": step})


def latest(runs: CheckpointDirectory) -> int:
    found = runs.latest()
    assert found is not None
    assert found.arrays["W"].tolist() == [found.metadata["step"]] * 3
    assert found.path.name == f"ckpt-{found.metadata['step']:010d}.safetensors"
    return found.metadata["step"]


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    with CheckpointDirectory(tmp_path / "runs") as runs:
        assert runs.latest() is None
        save(runs, 0, 5, 10, 12_500, MAX_STEP)
        assert runs.steps() == (10, 12_500, MAX_STEP)
        assert latest(runs) == MAX_STEP
    names = sorted(os.listdir(tmp_path / "runs"))
    assert names == [
        ".lock",
        "ckpt-0000000010.safetensors",
        "ckpt-0000012500.safetensors",
        "ckpt-9999999999.safetensors",
    ]


def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    with CheckpointDirectory(tmp_path) as runs:
        save(runs, 1, 2, 3)
        spoil(tmp_path / "ckpt-0000000003.safetensors")
        (tmp_path / "ckpt-0000000002.safetensors").write_bytes(b"")
        with pytest.warns(CheckpointWarning, match="skipping unreadable") as caught:
            assert latest(runs) == 1
        assert ["checksum" in str(caught[0].message), "length" in str(caught[1].message)] == [
            True
        ] * 2
        assert caught[0].filename == __file__
        # Nothing beyond the step that was found is removed, and going on replaces it.
        save(runs, 2)
        assert runs.steps() == (1, 2, 3)
        save(runs, 3, 4)
        assert runs.steps() == (2, 3, 4)
        assert latest(runs) == 4


def test_a_save_removes_nothing_that_is_newer(tmp_path: Path) -> None:
    """After a step back past damaged ones, what was just saved is not the oldest of all."""
    with CheckpointDirectory(tmp_path, keep=2) as runs:
        save(runs, 5, 6, 1, 2, 3)
        assert runs.steps() == (2, 3, 5, 6)


def test_a_checkpoint_the_disk_cannot_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = container.read

    def read(path: Path) -> Any:
        if "3" in path.name:
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    with CheckpointDirectory(tmp_path) as runs:
        save(runs, 2, 3)
        monkeypatch.setattr(container, "read", read)
        with pytest.warns(CheckpointWarning, match="Input/output error"):
            assert latest(runs) == 2


def test_not_one_that_can_be_read_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    with CheckpointDirectory(tmp_path) as runs:
        save(runs, 1, 2)
        for step in runs.steps():
            spoil(tmp_path / f"ckpt-{step:010d}.safetensors")
        with (
            pytest.warns(CheckpointWarning),
            pytest.raises(CheckpointError, match="none of the 2 checkpoints can be read"),
        ):
            runs.latest()
        assert runs.steps() == (1, 2)


HOLDER = """
import sys, time
from portable_bp.persistence.checkpoints import CheckpointDirectory
runs = CheckpointDirectory(sys.argv[1])
print("open", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "open\n"
            with pytest.raises(CheckpointError, match=rf"another run .*process {holder.pid} on "):
                CheckpointDirectory(tmp_path)
        finally:
            holder.kill()
    with CheckpointDirectory(tmp_path) as runs:  # the kernel has freed the lock
        save(runs, 1)


def test_the_same_process_is_refused_too_until_it_closes(tmp_path: Path) -> None:
    with CheckpointDirectory(tmp_path) as runs:
        with pytest.raises(CheckpointError, match="give this run another directory"):
            CheckpointDirectory(tmp_path)
        save(runs, 1)
    with pytest.raises(ValueError, match="closed"):
        runs.save(2, {}, {})
    runs.close()  # twice does no harm
    assert latest(runs) == 1  # reading needs no lock
    CheckpointDirectory(tmp_path).close()


def test_a_file_system_without_locks_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(CheckpointWarning, match="only one run saves here") as caught:
        runs = CheckpointDirectory(tmp_path)
    assert caught[0].filename == __file__
    save(runs, 1)
    runs.close()


def test_own_leftovers_are_swept_and_nothing_else(tmp_path: Path) -> None:
    name = "ckpt-0000000007.safetensors"
    leftover = [atomic.temporary_name(name), atomic.temporary_name("ckpt-probe")]
    others = [
        atomic.temporary_name("model.safetensors"),
        f".{name}.tmp",
        f".{name}.0123456789abcdeg.tmp",
        "ckpt-7.safetensors",
        "ckpt-0000000007.safetensors.bak",
        "notes.txt",
    ]
    for n in leftover + others:
        (tmp_path / n).write_bytes(b"half")
    with CheckpointDirectory(tmp_path) as runs:
        assert runs.steps() == ()
        assert runs.latest() is None
    assert sorted(os.listdir(tmp_path)) == sorted([*others, ".lock"])


def test_an_old_one_that_cannot_be_removed_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlink(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EIO, "Input/output error", str(self))

    with CheckpointDirectory(tmp_path, keep=1) as runs:
        save(runs, 1)
        monkeypatch.setattr(Path, "unlink", unlink)
        with pytest.warns(CheckpointWarning, match="old checkpoint not removed"):
            save(runs, 2)
        assert latest(runs) == 2


def test_errors_of_the_caller_are_raised_not_warned_about(tmp_path: Path) -> None:
    with CheckpointDirectory(tmp_path) as runs:
        with pytest.raises(TypeError, match=r"arrays\['W'\] has dtype complex128"):
            runs.save(1, {"W": np.ones(1, complex)}, {})
        for step, error in ((-1, ValueError), (MAX_STEP + 1, ValueError), (True, TypeError)):
            with pytest.raises(error, match="step: "):
                runs.save(step, {}, {})
        with pytest.raises(TypeError, match=r"step: .* got 1\.0"):
            runs.save(1.0, {}, {})  # type: ignore[arg-type]
    for keep, error in ((0, ValueError), (True, TypeError), (2.0, TypeError)):
        with pytest.raises(error, match="keep: "):
            CheckpointDirectory(tmp_path, keep=keep)  # type: ignore[arg-type]


def test_places_where_no_directory_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="need a directory, this is a file"):
        CheckpointDirectory(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="parent of the checkpoint directory is missing"):
        CheckpointDirectory(tmp_path / "missing" / "runs")
    with pytest.raises(NotADirectoryError):
        CheckpointDirectory(tmp_path / "file" / "runs")
    assert os.listdir(tmp_path) == ["file"]


def test_the_lock_is_no_way_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "precious").write_text("words")
    (tmp_path / "runs" / ".lock").symlink_to("../precious")
    with pytest.raises(OSError, match="cannot be written here"):
        CheckpointDirectory(tmp_path / "runs")
    assert (tmp_path / "precious").read_text() == "words"


def test_a_probe_that_fails_frees_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_writable(directory: Path, name: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(directory))

    with monkeypatch.context() as context:
        context.setattr(atomic, "check_writable", check_writable)
        with pytest.raises(OSError, match=r"cannot be written here \(Read-only file system"):
            CheckpointDirectory(tmp_path)
    CheckpointDirectory(tmp_path).close()


def test_words_of_the_lock_file_are_shown_as_text_only(tmp_path: Path) -> None:
    with CheckpointDirectory(tmp_path):
        (tmp_path / ".lock-holder").write_bytes(b"\x1b[2J\xff" + b"x" * 1000)
        with pytest.raises(CheckpointError) as caught:
            CheckpointDirectory(tmp_path)
    message = str(caught.value)
    assert "\x1b" not in message
    assert len(message) < 600
    assert "x" * 100 in message


def test_a_missing_library_of_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "filelock", None)
    with pytest.raises(ImportError, match=r"checkpoints need .* pip install 'portable-bp\[io\]'"):
        CheckpointDirectory(tmp_path)
