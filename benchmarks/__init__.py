"""How fast, how large and how reliable: measured, with the results kept in ``results/``."""

import sys
from pathlib import Path

# Of a copy that is not installed, too.
for _folder in (Path(__file__).parents[1], Path(__file__).parents[1] / "backends"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
