"""Measured rows against the model."""
