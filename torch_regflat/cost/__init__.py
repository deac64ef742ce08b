"""The batched cost kernel: kernels x chips x candidate mappings in, seconds, joules and bytes out, in plain torch."""

MODEL_VERSION = "0.5"
"""Version of the modelled numbers. A change that moves them raises it and is listed under "Model changes"."""
