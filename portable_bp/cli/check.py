"""``portable-bp check``: do the backends of this machine compute the same numbers?"""

from __future__ import annotations

from pathlib import Path

import click

from portable_bp import worked_example
from portable_bp.cli import shell
from portable_bp.persistence import atomic
from portable_bp.testing import check_backend


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
