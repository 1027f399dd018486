"""Reading a hostile file takes steps in proportion to its size: counted, not timed.

A step is an instruction of Python's in our code. What C code does in one instruction is linear by
what is called: the parser of JSON, passes of NumPy, methods of bytes. A regular expression is not,
so none may see what a file holds.
"""

from __future__ import annotations

import ast
import json
import random
import struct
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from portable_bp.errors import CheckpointError
from portable_bp.persistence import container, documents, foreign, model_file, schema


def steps(work, limit=10**7):
    """How many instructions ``work`` takes in the modules of files."""
    files = {m.__file__ for m in (container, documents, foreign, model_file, schema)}
    count = 0

    def local(frame, event, argument):
        nonlocal count
        count += event == "opcode"
        assert count < limit
        return local

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        return local

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def header(raw):
    return struct.pack("<Q", len(raw)) + raw


def marked(text):
    return header(json.dumps({"__metadata__": {"portable_bp": text}}).encode())


ENTRY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
HOSTILE = {
    "escaped quotes": lambda n: header(b'{"' + b'\\"' * n),
    "escaped quotes in the metadata": lambda n: marked("0 " + '{"' + '\\"' * n),
    "quotes": lambda n: header(b'{"' + b'"' * n),
    "backslashes": lambda n: header(b'{"' + b"\\" * n),
    "strings": lambda n: header(b'{"a":[' + b'"",' * n + b"0]}"),
    "brackets": lambda n: header(b'{"a":' + b"[" * n),
    "pairs of brackets": lambda n: header(b'{"a":[' + b"[]," * n + b"0]}"),
    "brackets in a string": lambda n: header(b'{"a":"' + b"[" * n + b'"}'),
    "keys": lambda n: header(json.dumps({str(i): 0 for i in range(n)}).encode()),
    "digits": lambda n: header(b'{"a":' + b"9" * n + b"}"),
    "digits of a fraction": lambda n: header(b'{"a":0.' + b"9" * n + b"}"),
    "spaces": lambda n: marked(" " * n),
    "a long name": lambda n: header(json.dumps({"a" * n: ENTRY}).encode()),
    "axes": lambda n: header(json.dumps({"a": ENTRY | {"shape": [1] * n}}).encode()),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_twice_the_header_takes_at_most_twice_the_steps(kind, tmp_path):
    def work(n):
        path = tmp_path / str(n)
        path.write_bytes(HOSTILE[kind](n))

        def read():
            with pytest.raises(CheckpointError):
                container.read(path)

        return steps(read)

    small, large = work(4_000), work(8_000)
    assert small > 50  # it was counted
    assert large <= 2 * small


METADATA = {
    "history": lambda n: {"history": [{"loss": 0.5, "seconds": 1.0}] * n},
    "columns": lambda n: {"history": [{str(i): 0.5 for i in range(n)}] * 2},
    "sizes": lambda n: {"network": {**NETWORK, "sizes": [1] * n}},
    "a network": lambda n: {
        "network": {**NETWORK, "sizes": [1] * n, "hidden": [{"name": "relu"}] * (n - 2),
                    "dropout": [0.0] * (n - 2)}
    },
    "parameters": lambda n: {
        "network": {**NETWORK, "loss": {"name": "huber", **{str(i): 1.0 for i in range(n)}}}
    },
    "a long text": lambda n: {"backend": "x" * n},
}  # fmt: skip
NETWORK = {
    "sizes": [1, 1], "hidden": [], "output": {"name": "relu"}, "loss": {"name": "huber"},
    "l1": 0, "l2": 0, "dropout": [], "initializer": "auto",
}  # fmt: skip
MODEL = {
    "kind": "model", "network": NETWORK, "backend": "numpy", "dtype": "float32", "history": [],
    "stopped": "finished", "best_epoch": None,
}  # fmt: skip


@pytest.mark.parametrize("kind", METADATA)
def test_twice_the_metadata_take_at_most_twice_the_steps(kind, tmp_path):
    params = {"W1": np.ones((1, 1), "f4"), "b1": np.ones(1, "f4")}

    def work(n):
        container.write(tmp_path / str(n), params, MODEL | METADATA[kind](n))

        def read():
            with suppress(CheckpointError):
                documents.read(tmp_path / str(n), "model")

        return steps(read)

    small, large = work(1_000), work(2_000)
    assert large <= 2 * small


def test_no_regular_expression_sees_what_a_file_holds():
    for module in (container, documents, foreign, model_file, schema):
        tree = ast.parse(Path(module.__file__).read_text())
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert "re" not in names, module.__name__


def depth_of(text):
    """By a plain scan, one character after the other, up to where no JSON can go on."""
    depth = deepest = 0
    inside = escaped = False
    for c in text:
        if inside:
            inside, escaped = escaped or c != '"', c == "\\" and not escaped
        elif c == '"':
            inside = True
        elif c == "\\":
            break
        elif c in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif c in "]}":
            depth -= 1
    return deepest


@pytest.mark.parametrize(
    ("start", "end", "deep"),
    [
        ('{"a":', "", True),
        ('{"a":"', '"}', False),
        (r'{"a":"\"', '"}', False),
        (r'{"a":"\\","b":', "", True),
        (r'{"a":"\\\"', '"}', False),
        (r'{"a\\":"x\"y\\",', "", True),
        ('{"a":1,"b":["]","}"],"c":', "", True),
    ],
)
def test_brackets_count_outside_of_strings(start, end, deep):
    text = start + "[" * container.MAX_DEPTH + end
    assert (depth_of(text) > container.MAX_DEPTH) == deep
    if deep:
        with pytest.raises(ValueError, match="nested more than 64 deep"):
            container._check_depth(text)
    else:
        container._check_depth(text)


def test_what_a_plain_scan_finds_deep_is_found_deep():
    rng = random.Random(0)
    pieces = ["[", "{", "]", "}", "[" * 40, '"', '"a"', '"["', r'"\\"', r'"\""', r'"\\\"["', '"x']
    texts = ["".join(rng.choices(pieces, k=rng.randrange(1, 12))) for _ in range(500)]
    deep = [text for text in texts if depth_of(text) > container.MAX_DEPTH]
    assert len(deep) > 20
    for text in deep:
        with pytest.raises(ValueError, match="nested more than 64 deep"):
            container._check_depth(text)
