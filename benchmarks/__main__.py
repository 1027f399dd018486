"""``python -m benchmarks``; what it can do stands in ``cli.py``."""

if __name__ == "__main__":  # every worker imports this module, and needs nothing of it
    from benchmarks.cli import main

    main(prog_name="python -m benchmarks")
