"""Results against one another: baselines of tests, what moved and why, budgets, and `regflat diff`. No torch."""
