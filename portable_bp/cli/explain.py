"""``portable-bp explain``: every number of backpropagation in two small networks."""

from __future__ import annotations

from pathlib import Path

import click

from portable_bp import explorer, worked_example
from portable_bp.cli import shell
from portable_bp.persistence import atomic


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
