"""The founding claims, each run through the model: `claims()` gives one `Finding` a claim (`regflat claims`)."""

from .check import Checked, claims
from .evidence import Setup

__all__ = ["Checked", "Setup", "claims"]
