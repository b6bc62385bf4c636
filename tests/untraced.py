"""The environment of processes that tests interrupt by signals."""

from __future__ import annotations

import os

# Not traced by coverage: a signal's handler raises wherever the program stands, and where that is between taking and
# giving back coverage's own lock, the process waits for itself for ever.
UNTRACED = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
