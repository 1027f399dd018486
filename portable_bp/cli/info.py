"""``portable-bp info``: the backends of this machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import click

from portable_bp._version import __version__
from portable_bp.backend.registry import VARIABLE, adapters, choose_auto
from portable_bp.cli import shell


@click.command()
@shell.json_option
@click.option("--no-probe", is_flag=True, help="Import no library to look for its devices: show "
              "only what is installed.")  # fmt: skip
def info(as_json: bool, no_probe: bool) -> int:
    """Show the backends of this machine: devices, versions, and why any cannot be used."""
    rows: list[dict[str, Any]] = []
    for name, adapter in sorted(adapters().items()):
        row: dict[str, Any] = {"name": name, "version": adapter.version()}
        if not no_probe:
            row |= {"devices": [*adapter.devices()], "why_not": adapter.unavailable_reason()}
        else:
            row["installed"] = adapter.installed()
        rows.append(row)
    chosen, why = (None, None) if no_probe else choose_auto()
    report = {
        "portable_bp": __version__,
        "python": platform.python_version(),
        "numpy": version("numpy"),
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
        print(f"{row['name']:<8}{row['version'] or '-':<14}{_usable(row)}")
    if not no_probe:
        print(f"\nauto: {chosen} ({why})")
    if report[VARIABLE]:
        print(f"{VARIABLE}: {report[VARIABLE]}")
    return 0


def _usable(row: dict[str, Any]) -> str:
    if "installed" in row:
        return "installed" if row["installed"] else "not installed"
    return ", ".join(row["devices"]) or f"not usable: {row['why_not']}"
