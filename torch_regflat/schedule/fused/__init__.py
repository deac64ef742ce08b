"""Chains of kernels fused on chip where software manages the memory: what lies between them never leaves.

`rows` says which kernels work on rows apart, `chains` which follow each other, `tiles` how they are cut up, `nest` what
that costs, `decide` which of them are worth it.
"""
