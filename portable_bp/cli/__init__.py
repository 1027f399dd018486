"""The command line: thin, over :mod:`portable_bp.tabular` and :mod:`portable_bp.testing`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from portable_bp._version import __version__
from portable_bp.cli import shell
from portable_bp.cli.export import export
from portable_bp.cli.inspect import check, explain, info
from portable_bp.cli.predict import predict
from portable_bp.cli.train import train


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, prog_name="portable-bp", message="%(prog)s %(version)s")
@click.pass_context
def commands(context: click.Context) -> int:
    """Train multilayer perceptrons by backpropagation, on the backends of this machine.

    Exit codes: 0 success; 1 the command failed (training diverged, out of memory or disk space,
    backends disagree); 2 bad input or usage; 130 interrupted (Ctrl-C); 143 terminated (SIGTERM; with
    --checkpoint also SIGUSR1).
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
    return 0


for command in (train, predict, export, info, explain, check):
    commands.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run ``portable-bp`` with these arguments (those of the process by default); the exit code."""
    return shell.run(commands, arguments)
