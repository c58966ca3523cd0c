"""The one error of `realize`: the host did not do what a step asked of it."""

from __future__ import annotations

__all__ = ["RealizeError"]


class RealizeError(Exception):
    """A step failed on the host; the sentence names the object, what was wanted and what was found.

    The caller retries with backoff: the definition is not at fault, or not only.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence
