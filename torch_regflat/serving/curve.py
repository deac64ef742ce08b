"""Costs over a number that spans decades (sequences, tokens), priced only where they are asked for."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

from ..served import StepCost, between

Price = Callable[[Sequence[int]], Sequence[StepCost]]


class Curve:
    """Straight lines between powers of `base`, and between whatever else was `learn`ed."""

    def __init__(self, price: Price, base: int = 2) -> None:
        self.price, self.base = price, base
        self._known: dict[int, StepCost] = {}
        self._sorted: list[int] = []

    def at(self, number: float) -> StepCost:
        """The cost at a number of 1 or more, whole or not."""
        power = 1
        while power * self.base <= number:
            power *= self.base
        above = power if number <= power else self.base * power
        self.learn(power, above)
        right = bisect.bisect_left(self._sorted, number)
        if right == 0 or self._sorted[right] == number:
            return self._known[self._sorted[right]]
        low, high = self._sorted[right - 1], self._sorted[right]
        return between(self._known[low], self._known[high], (number - low) / (high - low))

    def learn(self, *numbers: int) -> bool:
        """Price these too; whether any of them is new."""
        new = [number for number in dict.fromkeys(numbers) if number not in self._known]
        if new:
            self._known.update(zip(new, self.price(new), strict=True))
            self._sorted = sorted(self._known)
        return bool(new)
