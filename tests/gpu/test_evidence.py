"""The evidence script runs from end to end, writes nothing without a GPU; README shows its record."""

import argparse
import json
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest

from benchmarks import gpu_bench, gpu_evidence, gpu_record, tables
from benchmarks.cases import Case
from portable_bp.backend import leaves

README = gpu_record.ROOT / "README.md"
PAGE = gpu_record.ROOT / "docs" / "gpu.md"


def between(text, name):
    return text.split(f"<!-- {name}:begin -->\n")[1].split(f"\n<!-- {name}:end -->")[0]


def test_readme_says_what_the_record_says():
    record = gpu_record.load()
    assert between(README.read_text(), "devices") == gpu_record.devices(record)
    assert f"**{gpu_record.status(record)}**" in README.read_text()
    assert between(PAGE.read_text(), "record") == gpu_record.report(record)


@pytest.fixture
def record():
    """As a GPU would write it."""
    timed = {"error": 0.0, "tolerance": 1.0, "ready_s": 0.1}
    names = ("ours cupy", "torch graph", "ours cupy, eager", "torch eager", "floor")
    us = dict(zip(names, (10.0, 20.0, 300.0, 45.0, 9.0), strict=True))
    case = gpu_bench.CASES[2]
    entry = {
        "name": case.name,
        "case": {"sizes": case.sizes, "batch": case.batch, "rows": case.rows, "optimizer": "adam"},
        "candidates": {n: {**timed, "us": [u, u]} for n, u in us.items()},
    }
    suite = {
        "backend": "cupy:0", "tf32": False, "agrees": True, "comparisons": 9, "seconds": 1.0,
        "worst": [{"what": "gradient", "error": 4.0, "tolerance": 32.0}],
    }  # fmt: skip
    return {
        "gpu": "Some GPU", "driver": "1", "devices": 1, "date": "2026-01-02", "versions": {"a": "1"},
        "sources": gpu_record.sources(), "suite": [suite],
        "tests": [{"backend": "cupy:0", "passed": 3, "skipped": 1, "failures": []}],
        "timings": [entry], "targets": gpu_bench.targets([entry]),
    }  # fmt: skip


def test_the_tables_of_a_record(record):
    table = gpu_record.devices(record)
    assert "agrees: 9 comparisons on Some GPU, 2026-01-02" in table
    assert "**current**" in table
    assert "never run" in table  # torch and jax are not in it
    text = gpu_record.report(record)
    assert "gradient: 4.0 u of 32.0 u" in text
    met = {(t["candidate"], t["over"]): t["met"] for t in record["targets"]}
    assert met == {
        ("ours cupy", "ours cupy, eager"): True,
        ("ours cupy", "torch eager"): False,
        ("ours cupy", "torch graph"): True,
        ("ours cupy", "torch 16-step graphs"): None,
    }
    record["suite"][0]["agrees"] = False
    assert "DISAGREES" in gpu_record.devices(record)


@pytest.mark.parametrize("part", gpu_record.sources())
def test_a_record_of_other_code_is_told(record, part):
    assert gpu_record.status(record) == "current"
    record["sources"][part] = "other"
    assert "**older than the code**" in gpu_record.devices(record)


def test_without_a_gpu_nothing_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_evidence, "gpus", list)
    kept = tmp_path / "gpu.json"
    kept.write_text("as it was")
    assert gpu_evidence.main(["--output", str(kept)]) == 2
    assert kept.read_text() == "as it was"
    assert "no record is written" in capsys.readouterr().out


def test_parts_are_put_together_while_gpu_and_code_stay(tmp_path, record):
    path, cards = tmp_path / "gpu.json", [("Some GPU", "1")]
    cores = gpu_evidence.machine()["cores"]
    gpu_evidence.write({**record, "versions": gpu_evidence.versions(), "cores": cores}, path)
    assert gpu_evidence.started(path, cards)["suite"] == record["suite"]
    assert "suite" not in gpu_evidence.started(path, [("Another GPU", "1")])
    other = json.loads(path.read_text())
    other["sources"]["equations"] = "other"
    gpu_evidence.write(other, path)
    assert "suite" not in gpu_evidence.started(path, cards)


def test_a_dry_run_goes_through_every_part(tmp_path, capfd):
    path = tmp_path / "gpu.json"
    assert gpu_evidence.main(["--dry-run", "--output", str(path)]) == 0
    said = capfd.readouterr().out
    for part in (
        "numpy: all",
        "torch: all",
        "passed in",
        "ours numpy, eager",
        "bench torch: done",
    ):
        assert part in said
    assert not path.exists()


@pytest.fixture
def chosen(tmp_path):
    return argparse.Namespace(
        part=["tests", "suite"], seconds=60, output=tmp_path / "gpu.json", dry_run=False
    )


def test_a_part_that_crashes_or_hangs_loses_nothing_and_is_tried_again(chosen, monkeypatch, capsys):
    ends = {"tests cupy:0": "exit -11: illegal address", "suite cupy:0": ""}
    asked = []

    def attempt(part, spec, _, limit):
        asked.append(f"{part} {spec}")
        entry = {"backend": spec, "passed": 1, "skipped": 0, "failures": []}
        summary = {"backend": spec, "tf32": False, "agrees": True, "comparisons": 1, "worst": []}
        found = {"tests": {"tests": [entry]}, "suite": {"suite": [summary]}}[part]
        return found, ends[f"{part} {spec}"]

    monkeypatch.setattr(gpu_evidence, "attempt", attempt)
    cards = [("Some GPU", "1")]
    assert gpu_evidence.collect(["cupy:0"], cards, chosen) == 1
    kept = json.loads(chosen.output.read_text())
    assert kept["ended_badly"] == {"tests cupy:0": "exit -11: illegal address"}
    assert kept["tests"][0]["passed"] == 1  # what it had found before
    assert "did not end well" in capsys.readouterr().out
    ends["tests cupy:0"] = ""
    assert gpu_evidence.collect(["cupy:0"], cards, chosen) == 0
    assert asked == ["tests cupy:0", "suite cupy:0", "tests cupy:0"]


def test_a_record_that_cannot_be_read_is_none(tmp_path):
    (tmp_path / "gpu.json").write_text('{"gpu": "Some')
    assert "suite" not in gpu_evidence.started(tmp_path / "gpu.json", [("Some GPU", "1")])


def test_a_process_that_hangs_is_stopped(chosen, monkeypatch):
    chosen.rounds, chosen.emulated = 1, False
    found, ended = gpu_evidence.attempt("suite", "no such backend", chosen, 60)
    assert found == {}
    assert "exit 1" in ended
    found, ended = gpu_evidence.attempt("suite", "numpy", chosen, 0.01)
    assert ended == "stopped after 0 s"


def test_an_emulated_gpu_makes_no_record(chosen, monkeypatch, capsys):
    monkeypatch.setattr(gpu_evidence, "gpus", lambda: [("emulated", "1")])
    assert gpu_evidence.main(["--output", str(chosen.output)]) == 2
    assert "no record is written" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        gpu_evidence.main(["--emulated", "--output", str(chosen.output)])
    assert not chosen.output.exists()


def test_gpus_without_nvidia_smi(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(gpu_evidence, "_by_libraries", lambda: [("Some GPU", "unknown")])
    assert gpu_evidence.gpus() == [("Some GPU", "unknown")]


def test_a_copy_that_is_not_installed_knows_its_backends(tmp_path):
    """As on a machine without a network: the tree, and packages that are there already."""
    for name in ("portable_bp", "backends", "benchmarks", "pyproject.toml"):
        (tmp_path / name).symlink_to(gpu_record.ROOT / name)
    code = (
        "import importlib.metadata as m, sys\n"
        "real = m.entry_points\n"
        "m.entry_points = lambda **k: [e for e in real(**k) if '/portable_bp-' in str(e.dist._path)]\n"
        "from benchmarks import gpu_evidence\n"
        "from portable_bp.backend import registry\n"
        "registry.entry_points = m.entry_points\n"
        "gpu_evidence.entry_points = m.entry_points\n"
        "gpu_evidence.registered()\n"
        "print(sorted(registry.adapters()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert "'cupy'" in done.stdout, done.stderr


def test_a_candidate_that_is_wrong_or_fails_is_refused_and_the_others_are_timed():
    good = gpu_bench.rehearsal("numpy")["ours numpy"]

    class Wrong(good):
        def error(self, expected):
            return 0.5

    def failing(case):
        raise RuntimeError("no such kernel")

    makers = {"wrong": Wrong, "failing": failing, "good": good}
    entry = gpu_bench.compare(Case((8, 16, 2), 32, 256), makers, rounds=2, seconds=0.0)
    found = entry["candidates"]
    assert "0.5 away from float64" in found["wrong"]["refused"]
    assert "no such kernel" in found["failing"]["refused"]
    assert len(found["good"]["us"]) == 2
    assert "good" in tables.speeds([entry]).markdown()


class OnHost:
    """PyTorch's peers without a GPU: a graph is the steps themselves, called again."""

    device = "cpu"
    of_adam: ClassVar = {}

    def warm_up(self):
        return

    def captured(self, n):
        self.lengths = [*self.__dict__.get("lengths", []), n]
        return lambda: [self.step() for _ in range(n)]


@pytest.mark.parametrize(
    "peer",
    [
        gpu_bench.TorchModuleGraph,
        gpu_bench.TorchModuleGraphs,
        pytest.param(gpu_bench.TorchCompiledGraphs, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own
def test_peers_in_graphs_train_as_the_module_does(peer):
    case = Case((8, 16, 2), 32, 40 * 32)
    module, graphs = (type("Peer", (OnHost, p), {})(case) for p in (gpu_bench.TorchModule, peer))
    order = module.data.orders[0]
    assert len(order) == 40  # two graphs of 16 steps, and 8 steps
    assert graphs.lengths == sorted({1, peer.unroll})
    losses = [candidate.epoch(order) for candidate in (module, graphs)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    for a, b in zip(leaves(module.params()), leaves(graphs.params()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_processor_is_timed_when_asked_and_once():
    both = ["cupy:0", "torch:cuda:0"]
    assert gpu_evidence.jobs(both, ["cpu"]) == [("cpu", "numpy")]
    assert gpu_evidence.jobs(both, ["device", "cpu"])[-1] == ("cpu", "numpy")
    assert "cpu" not in [part for part, _ in gpu_evidence.jobs(both, gpu_evidence.PARTS)]


def test_what_the_processor_took_is_shown_with_its_cores(record):
    makers = {"ours numpy": gpu_bench.on_cpu()["ours numpy"]}
    entry = gpu_bench.compare(Case((8, 16, 2), 32, 256), makers, rounds=1, seconds=0.0)
    grown = gpu_evidence.merged({**record, "cores": 16}, {"cpu": [entry]})
    assert grown["timings"] == record["timings"]
    assert "The processor of that machine, 16 cores:\n\n" in gpu_record.report(grown)


def test_every_file_of_an_adapter_is_in_its_fingerprint():
    room = gpu_record.ROOT / "backends" / "portable_bp_backends"
    files = {p.relative_to(room).as_posix() for p in room.rglob("*.py")}
    seen = {
        path.relative_to(room).as_posix()
        for patterns in gpu_record._ADAPTERS.values()
        for pattern in patterns
        for path in room.glob(f"{pattern}.py")
    }
    missing = {f for f in files - seen if f.startswith(("cupy", "torch_graph", "jax_", "_graph"))}
    assert not missing
    assert {"cupy_parts.py", "cupy_persistent/runner.py"} <= seen
