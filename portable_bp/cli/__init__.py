"""The command line: thin, over :mod:`portable_bp.tabular` and :mod:`portable_bp.testing`.

Each command stands in the module of its name, which is imported when the command is run: help, version
and completion of names load no array library.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from portable_bp._version import __version__
from portable_bp.cli import shell

COMMANDS = {
    "train": "Train a network on SOURCE and write the model to a file.",
    "search": "Try many networks on SOURCE within a time; write the best.",
    "predict": "Predict every row of FILE with MODEL, a file that train wrote.",
    "inspect": "Show what MODEL holds: network, columns, training, scores.",
    "export": "Write MODEL, a file that train wrote, in another language.",
    "info": "Show the backends of this machine, and why any cannot be used.",
    "explain": "Work through backpropagation: every number of two small networks.",
    "bench": "Time a network on every backend here, and recommend one.",
    "check": "Compare backends with float64 NumPy: equations and whole runs.",
}
"""From the name of a command to its line in the help."""


class Commands(click.Group):
    """The commands, imported one by one when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and what they are for."""
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands and options that begin so."""
        names = [CompletionItem(n, help=h) for n, h in COMMANDS.items() if n.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=Commands,
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


def run(arguments: Sequence[str] | None = None) -> int:
    """Run ``portable-bp`` with these arguments (those of the process by default); the exit code."""
    return shell.run(commands, arguments)
