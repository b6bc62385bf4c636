"""JSON files that a test changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None takes a key out."""
    document = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}), encoding="utf-8")
