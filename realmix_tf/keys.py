"""Keys of counter-based random generators; plain Python, for code that does without TensorFlow."""

from __future__ import annotations

import hashlib


def key(seed: int, purpose: str) -> int:
    """A 64-bit key; different seeds or purposes give unrelated streams."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
