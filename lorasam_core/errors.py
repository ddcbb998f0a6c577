"""Errors in few words. Imports no torch, and nothing of this package."""

from __future__ import annotations


def brief(error: object, most: int = 160) -> str:
    """The start of an error's words, or of a value's, on one line and without a full stop; its type for none."""
    return " ".join(str(error).split())[:most].rstrip(".") or type(error).__name__


def typed(error: BaseException, most: int = 200) -> str:
    """An error's type and the start of its words, on one line."""
    return brief(f"{type(error).__name__}: {error}", most)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was short; on a CPU torch has no class of its own for it."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error))
