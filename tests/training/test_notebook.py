"""Progress in a notebook: one line, replaced after each epoch, that stays when the run has ended."""

from __future__ import annotations

import re

import numpy as np
import pytest

import portable_bp
from portable_bp.training import notebook, pace

IPython = pytest.importorskip("IPython")


class ZMQInteractiveShell:
    """What a kernel calls its shell."""


class Shown:
    def __init__(self):
        self.lines = []

    def display(self, line, *, raw, display_id):
        assert raw
        assert display_id
        self.lines.append(line)
        return self

    def update(self, line, *, raw):
        self.lines.append(line)


def test_a_kernel_is_told_from_a_terminal(monkeypatch):
    assert not notebook.in_notebook()
    monkeypatch.setattr(IPython, "get_ipython", ZMQInteractiveShell)
    assert notebook.in_notebook()


def test_the_line_says_how_far_and_how_well(monkeypatch, capsys):
    shown = Shown()
    monkeypatch.setattr(IPython, "get_ipython", ZMQInteractiveShell)
    monkeypatch.setattr(IPython.display, "display", shown.display)
    X = np.random.default_rng(0).normal(size=(20, 2))
    net = portable_bp.MLP([2, 1])
    model = portable_bp.fit(net, X, X[:, 0], epochs=3, validation=0.2, progress=True)
    assert len(shown.lines) == 1 + 3
    assert shown.lines[0]["text/plain"].startswith("training 0/3")
    last = shown.lines[-1]
    assert f"training 3/3  loss {model.history['loss'][-1]:.4g}" in last["text/plain"]
    assert re.search(r"  [1-9][\d,]* rows/s  0:00:00 left  ", last["text/plain"])
    assert '<progress value="3" max="3"' in last["text/html"]
    assert capsys.readouterr() == ("", "")


def test_the_line_grows_within_an_epoch_of_a_source(monkeypatch):
    shown = Shown()
    monkeypatch.setattr(IPython, "get_ipython", ZMQInteractiveShell)
    monkeypatch.setattr(IPython.display, "display", shown.display)
    monkeypatch.setattr(pace, "LEAST_SECONDS", 0)
    X = np.random.default_rng(0).normal(size=(80, 2))
    source = portable_bp.sources.Arrays(X, X[:, 0], block_rows=10, window_rows=20)
    portable_bp.fit(portable_bp.MLP([2, 1]), source, epochs=2, batch_size=10, progress=True)
    bars = [float(re.search(r'value="([\d.]+)"', line["text/html"])[1]) for line in shown.lines]
    assert bars == [0, 0.25, 0.5, 0.75, 1, 1, 1.25, 1.5, 1.75, 2, 2]
    assert "rows/s" in shown.lines[1]["text/plain"]


def test_the_time_left_of_a_run_that_goes_on():
    seconds = iter([0.0, 10.0, 20.0])
    told = pace.Pace(8, lambda: next(seconds))
    assert told.epoch_ended(5, 100) == (5.0, "10 rows/s  0:00:30 left")
    assert told.epoch_ended(6, 100) == (6.0, "10 rows/s  0:00:20 left")
