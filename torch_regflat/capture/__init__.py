"""From a module or function to an fx graph of ATen operators with meta values."""

from __future__ import annotations

from .record import Captured, capture, capture_with_result

__all__ = ["Captured", "capture", "capture_with_result"]
