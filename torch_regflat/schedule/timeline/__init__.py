"""A schedule in time: which kernel runs when, what moves when, and what lies on chip meanwhile.

Plain records in, plain records out: `graph` says what has to be done, `plan` in which order and what stays on chip,
`place` when; `search` tries several orders and plans; `bounds` says what no schedule can beat. `chip` connects it to
kernels and their prices.
"""
