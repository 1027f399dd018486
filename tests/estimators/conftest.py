"""scikit-learn refuses array API dispatch unless this is set when it is switched on."""

from __future__ import annotations

import os

os.environ.setdefault("SCIPY_ARRAY_API", "1")
