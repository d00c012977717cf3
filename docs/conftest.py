"""Pytest runs the examples in the pages written by hand, and nothing else here."""

collect_ignore_glob = ["*.py", "_build/*", "_generated/*", "gallery/*", "reference/generated/*"]
