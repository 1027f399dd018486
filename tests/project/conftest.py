"""What lies in ``data`` is read by tests: it is no test, and is not imported."""

collect_ignore = ["data"]
