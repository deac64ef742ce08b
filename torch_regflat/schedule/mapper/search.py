"""The mapper of explicitly managed memories: the best tiles, loop orders and spatial split of every kernel.

A kernel's space (`spaces`) is priced as tensors `[kernel, chip, candidate, split]`, a chunk at a time. Latency is
ranked without the power limit first, which bounds it from below; the best few are priced again with it, and where the
limit changes who wins, the space is ranked again with it. `Effort` says how much of the space is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...cost.chip_tensors import ChipTensors, RateTensors, at_kernels
from ...cost.shapes import KernelShape
from ...memory.quantities import DOUBLE_BUFFER, Stages
from ...memory.tiling import Product
from . import frontier, spaces
from .found import Found, Objective
from .task import Task

Effort = Literal["steps", "survey", "whole", "every"]
"""`steps`: coarse steps of tile sizes, refined around the best. `survey`: the same, with a coarse space that also
prices what cannot be best, to compare with. `whole`: the best of the whole space, of which only what can be best is
priced where that is proven (one level on chip). `every`: each candidate of it is priced."""
KEEP = 16
"""Candidates of each kernel that are priced again with the power limit."""
ROUNDS = 3
"""How often at most the neighbourhood of the best is searched again."""


@dataclass(frozen=True)
class Mapper:
    """Searches the mappings of kernels on one chip, or on several with the same levels, side by side."""

    stages: Stages
    chip: ChipTensors
    overlap: str
    splits: tuple[int, ...] = (1,)
    objective: Objective = "latency"
    buffers: float = DOUBLE_BUFFER
    effort: Effort = "steps"
    keep: int = KEEP

    def search(self, shapes: Sequence[KernelShape], rates: RateTensors) -> list[list[Found]]:
        """Mappings of kernels whose problems share a structure, by kernel and by chip."""
        task = self._task(shapes, rates)
        found = task.found()
        limited = task.limited(found)
        if limited:
            some = self._task([shapes[i] for i in limited], at_kernels(rates, limited), with_limit=True)
            for index, by_chip in zip(limited, some.found(), strict=True):
                found[index] = by_chip
        return found

    def _task(self, shapes: Sequence[KernelShape], rates: RateTensors, with_limit: bool = False) -> Task:
        task = Task(self, shapes, rates, with_limit=with_limit)
        cores = int(self.chip.cores.min())
        if self.effort == "every" or (self.effort == "whole" and len(self.stages.levels) > 1):
            task.look(spaces.whole(task.problems, self.stages, cores, self.buffers))
        elif len(self.stages.levels) == 1:
            if self.effort == "survey":
                task.look(spaces.coarse(task.problems, self.stages, cores, self.buffers))
            self._one_stage(task)
        else:
            self._descend(task, cores)
        return task

    def rank(self, shapes: Sequence[KernelShape], rates: RateTensors, space: Product) -> list[list[Found]]:
        """The best mappings of a given space, by kernel and by chip."""
        task = Task(self, shapes, rates, space.nestings)
        task.look(space)
        return task.found()

    def _one_stage(self, task: Task) -> None:
        """Only what lies on the frontier of what fits; in steps of sizes first, then with all sizes near the best."""
        task.look_at(frontier.largest(task.problems), task.nestings[:1])
        if self.effort == "steps" and task.all_fit():
            return  # everything fits whole: nothing moves twice, and no smaller tile moves less
        alone = frontier.one_moves(task.problems) if self.effort == "steps" else None
        if alone is not None:
            task.look_at(alone, task.nestings[:1])
            if task.all_fit():
                return  # what moves is fetched once, tile by tile, while everything else stays
        for trips in task.trips():
            lists = frontier.every_size(task.problems, len(task.nestings), self.effort == "whole", trips)
            for free in task.room(0):
                found = frontier.frontier(task.problems, self.stages, lists, None, free, self.buffers)
                task.look_at(found, task.nestings)
        if self.effort == "whole":
            return
        for _ in range(ROUNDS):
            before = task.by_order.value.clone()
            for tried, tiles, chip in task.starts():
                near = frontier.sizes_near(task.problems, tiles, 0)
                free = task.room(0)[chip]
                task.look_at(frontier.frontier(task.problems, self.stages, near, tiles, free, self.buffers), tried)
            if not task.improved(before):
                return

    def _descend(self, task: Task, cores: int) -> None:
        """One stage after the other, from the best of a coarse space in every outermost loop order."""
        for trips in task.trips():
            task.look(spaces.coarse(task.problems, self.stages, cores, self.buffers, trips))
        for _ in range(ROUNDS):
            before = task.by_order.value.clone()
            for tried, tiles, _ in task.starts():
                task.look(spaces.around(task.problems, self.stages, tiles, tried, cores, self.buffers))
            # Where the outermost tile is what cores hold together, no memory bounds it by itself.
            for tried, tiles, chip in task.starts() if self.stages.stored[0] == 0 else ():
                lists = frontier.sizes_between(task.problems, tiles, 0, self.stages)
                free = task.room(0)[chip]
                task.look_at(frontier.frontier(task.problems, self.stages, lists, tiles, free, self.buffers), tried)
            if not task.improved(before):
                return
