"""How many accesses a banked memory serves a clock when they fall on banks at random.

Each of p requesters waits until its access is served and then makes the next one, to a bank drawn at random; each of m
banks serves one a clock. The mean number served a clock is then close to

    a - sqrt(a^2 - 2 p m),  a = p + m - 1/2

(F. Baskett and A. J. Smith, Interference in Multiprocessor Computer Systems with Interleaved Memory, CACM 19(6), 1976,
the asymptotic form with the usual correction of 1/2, which makes it exact for p = 1 and for m = 1). For p = m and both
large it is 2 - sqrt(2) = 0.586 of either: a crossbar with queues at its inputs (Karol, Hluchyj and Morgan, 1987).
`tests/hardware/test_contention.py` compares it with a simulator that goes clock by clock.
"""

from __future__ import annotations

import math


def served(requesters: float, banks: float) -> float:
    """Accesses served a clock, of `requesters` that each have one under way, by `banks` that serve one each.

    Takes any numbers above 0: a port that wants half an access a clock is half a requester.
    """
    a = requesters + banks - 0.5
    found = a - math.sqrt(max(a * a - 2.0 * requesters * banks, 0.0))
    return min(found, requesters, banks)


def port_efficiency(port_bytes: float, bank_bytes: float, banks: float) -> float:
    """Share of a port's bytes a clock that `banks` of `bank_bytes` a clock deliver for accesses at random."""
    requesters = port_bytes / bank_bytes
    return served(requesters, banks) / requesters
