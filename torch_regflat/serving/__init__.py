"""Whole requests, served models and what they cost, all built on the cost of one forward pass (`steps`)."""
