"""Many prices at once and what follows from them: sweeps, chips compared like for like, claims with verdicts."""
