"""The mapper of explicitly managed memories: `search` is its door, `spaces` and `frontier` what it tries."""
