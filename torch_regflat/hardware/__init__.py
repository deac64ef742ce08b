"""Hardware and software descriptions as validated data. Nothing here imports torch."""
