"""What a source that is made of another one says of itself."""

from __future__ import annotations

import hashlib

from stillhouse.engine.contracts import Source


class Derived:
    """A `Source` of another's examples, augmented where that one's are; its subclasses say what they make of them.

    Args:
        source: the other.
        words: what tells this one from the other, for the fingerprint; none: nothing does.
    """

    def __init__(self, source: Source, words: str = "") -> None:
        self.source = source
        self.augments = getattr(source, "augments", False)
        self.plain_with = getattr(source, "plain_with", "").replace("data.", "data.of.")
        told = hashlib.sha256(f"{source.fingerprint} {words}".encode()).hexdigest()
        self.fingerprint = told if words else source.fingerprint

    def __len__(self) -> int:
        return len(self.source)
