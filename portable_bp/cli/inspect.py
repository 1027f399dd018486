"""``portable-bp info``, ``explain`` and ``check``: the backends, their numbers, their agreement."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from portable_bp import __version__, explorer, worked_example
from portable_bp.backend.registry import VARIABLE, adapters, choose_auto
from portable_bp.cli import shell
from portable_bp.persistence import atomic
from portable_bp.testing import check_backend


@click.command()
@shell.json_option
def info(as_json: bool) -> int:
    """Show the backends of this machine: devices, versions, and why any cannot be used."""
    rows: list[dict[str, Any]] = []
    for name, adapter in sorted(adapters().items()):
        devices, reason = list(adapter.devices()), adapter.unavailable_reason()
        library = sys.modules.get(adapter.modules[0])
        version = str(getattr(library, "__version__", "")) or None
        rows.append({"name": name, "version": version, "devices": devices, "why_not": reason})
    chosen, why = choose_auto()
    report = {
        "portable_bp": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "auto": chosen,
        "auto_why": why,
        VARIABLE: os.environ.get(VARIABLE),
        "backends": rows,
    }
    if as_json:
        shell.print_json(report)
        return 0
    print(f"portable_bp {__version__}, Python {report['python']}, {report['platform']}, "
               f"{report['cpus']} CPUs\n")  # fmt: skip
    for row in rows:
        usable = ", ".join(row["devices"]) or f"not usable: {row['why_not']}"
        print(f"{row['name']:<8}{row['version'] or '-':<14}{usable}")
    print(f"\nauto: {chosen} ({why})")
    if report[VARIABLE]:
        print(f"{VARIABLE}: {report[VARIABLE]}")
    return 0


@click.command()
@shell.json_option
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the explorer instead: a page to step through the same networks.")  # fmt: skip
def explain(as_json: bool, html: Path | None) -> int:
    """Work through backpropagation: every number of two small networks, on every usable backend."""
    if html is not None:
        if as_json:
            raise click.UsageError("--json prints numbers, --html writes a page: choose one")
        shell.check_target(html)
        with shell.failing(html):
            atomic.write(html, explorer.page().encode())
        print(f"wrote {html}: open it in a browser")
        return 0
    specs = worked_example.usable_backends()
    runs = [
        [worked_example.trace(example, spec) for spec in specs]
        for example in (worked_example.YEHOSHUA, worked_example.MAZUR)
    ]
    if as_json:
        shell.print_json({"examples": [[t.as_dict() for t in traces] for traces in runs]})
    else:
        print("\n\n".join(worked_example.report(traces) for traces in runs))
    return 0


@click.command()
@click.option("--backend", "specs", multiple=True, metavar="SPEC", help="cupy, torch:cuda:0, ...; may "
              "be repeated.  [default: every usable library]")  # fmt: skip
@click.option("--json", "path", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the full report as JSON.")  # fmt: skip
@shell.quiet_option
def check(specs: tuple[str, ...], path: Path | None, quiet: bool) -> int:
    """Compare backends with float64 NumPy: every equation, and whole training runs.

    Shows the largest error of each, in units of rounding. The exit code is 1 if a backend disagrees.
    """
    shell.check_target(path)
    out = shell.console(quiet)
    reports = []
    for spec in specs or worked_example.usable_backends():
        with out.status(f"comparing {spec} with float64 NumPy"):
            report = check_backend(spec)
        reports.append(report)
        out.print(f"{report}\n")
    agree = all(report.agrees for report in reports)
    if path is not None:
        everything = {"agrees": agree, "reports": [report.as_dict() for report in reports]}
        with shell.failing(path):
            atomic.write(path, (shell.to_json(everything, indent=1) + "\n").encode())
    return 0 if agree else shell.FAILED
