"""How a model is divided among chips: the degrees of each kind of parallelism, and which ranks form a group."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import InputError


@dataclass(frozen=True, slots=True)
class Layout:
    """`tp` x `dp` x `pp` chips that work on one model together.

    - `tp`: each layer's weights are divided among so many neighbouring chips (tensor parallel)
    - `dp`: so many groups of `tp` chips take different sequences (data parallel)
    - `pp`: the layers are divided into so many stages, one after the other (pipeline parallel)
    - `ep`: so many ways the experts of a mixture are divided (expert parallel), over the `tp` x `dp` chips of a stage.
      Each expert is itself divided among the `tp` x `dp` / `ep` chips left. With 1, experts are divided like any
      other weight, and each data-parallel group has all of them.

    Ranks are numbered with `tp` innermost, then `dp`, then `pp`: neighbours are next to each other on a board.
    """

    tp: int = 1
    ep: int = 1
    pp: int = 1
    dp: int = 1

    def __post_init__(self) -> None:
        for degree in fields(self):
            value = getattr(self, degree.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{degree.name} is {value!r}; it must be a whole number of 1 or more")
        if (self.tp * self.dp) % self.ep:
            raise InputError(
                f"ep is {self.ep}, which does not divide the tp x dp = {self.tp * self.dp} chips of a stage; "
                f"degrees that do: {', '.join(map(str, divisors(self.tp * self.dp)))}"
            )

    @property
    def chips(self) -> int:
        return self.tp * self.dp * self.pp

    @property
    def expert_tp(self) -> int:
        """Among how many chips each expert is divided."""
        return self.tp if self.ep == 1 else self.tp * self.dp // self.ep

    def __str__(self) -> str:
        degrees = [f"{field.name}{getattr(self, field.name)}" for field in fields(self)]
        return " ".join(degree for degree in degrees if degree[2:] != "1") or "tp1"


def divisors(number: int) -> list[int]:
    """All whole numbers that divide it, smallest first."""
    return [d for d in range(1, number + 1) if number % d == 0]
