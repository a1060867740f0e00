"""How far long work is, told to whoever asked for it."""

from __future__ import annotations

from collections.abc import Callable

Told = Callable[[float], None]
"""Hears how far some work is, 0..1. It may raise, to have the work end."""


def unheard(share: float) -> None:
    """Be told, and do nothing: nobody asked."""
