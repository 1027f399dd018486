"""Without the plugin nothing here is collected: CuPy of the rest of the suite has no device."""

import sys

if "tests.emulated_gpu.install" not in sys.modules:
    collect_ignore_glob = ["*.py"]
