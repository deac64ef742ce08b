"""From operations to kernels on a chip: fusion, residency, choice of mapping, and the time line."""
