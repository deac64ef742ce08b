"""What exchanges between chips cost: collectives over the links of a chip's file, by the algorithms libraries have.

`tiers` finds the links that a group of ranks uses, `algorithms` says what each algorithm moves over them and in how
many hops, `price` makes seconds and joules of it and takes the fastest, as libraries do.
"""

from .price import NOTHING, Exchange, bound_s, options, price

__all__ = ["NOTHING", "Exchange", "bound_s", "options", "price"]
