"""``portable-bp export``: a trained network as a file of another language."""

from __future__ import annotations

from pathlib import Path

import click

from portable_bp import export as formats
from portable_bp import tabular
from portable_bp.cli import shell

_WRITERS = {
    "onnx": (formats.to_onnx, ".onnx"),
    "numpy": (formats.to_numpy, ".py"),
    "c": (formats.to_c, ".c"),
}


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "language",
    type=click.Choice([*_WRITERS]),
    required=True,
    help="onnx: an ONNX file; numpy: one Python file that needs NumPy alone; c: a C99 file and its "
    "header.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The file to write.  [default: MODEL with the ending of the language]",
)
@shell.quiet_option
def export(model: Path, language: str, output: Path | None, quiet: bool) -> int:
    """Write MODEL, a file that train wrote, in another language.

    The result takes the columns of the table as they are, in the order in which the model learnt
    them, and gives the labels or quantities that predict gives.
    """
    write, suffix = _WRITERS[language]
    output = model.with_suffix(suffix) if output is None else output
    written = [output, output.with_suffix(".h")] if language == "c" else [output]
    for path in written:
        shell.check_target(path, model)
    fitted = tabular.load(model, "numpy")
    with shell.failing(output):
        write(fitted, output)
    shell.console(quiet).print(f"wrote {shell.printable(' and '.join(map(str, written)))}")
    return 0
