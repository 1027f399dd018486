"""The command ``portable-bp``, also ``python -m portable_bp``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; its exit code."""
    try:
        from portable_bp.cli import run
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "click":
            raise
        print(
            "portable-bp: error: the command line needs click: pip install 'portable-bp[cli]'",
            file=sys.stderr,
        )
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
