"""`regflat measure`: time kernels and models on this machine's GPU, and write rows that `regflat validate` reads."""
