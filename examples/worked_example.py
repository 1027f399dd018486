"""
Backpropagation by hand
=======================

Every z, a, delta, gradient and update of two published examples, with one column for each library
that can be used on this machine: check the numbers against each other, and against paper and
pencil.
"""

from __future__ import annotations

from portable_bp import worked_example


def main() -> None:
    backends = worked_example.usable_backends()
    for example in (worked_example.YEHOSHUA, worked_example.MAZUR):
        traces = [worked_example.trace(example, spec) for spec in backends]
        print(worked_example.report(traces), end="\n\n")


if __name__ == "__main__":
    main()
