"""Progress in a notebook: one line, replaced after each epoch, that stays when the run has ended."""

from __future__ import annotations

import numpy as np
import pytest

import portable_bp
from portable_bp.training import notebook

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
    assert '<progress value="3" max="3"' in last["text/html"]
    assert capsys.readouterr() == ("", "")
