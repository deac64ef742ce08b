"""Workloads of products with exchanges between them, built by hand."""

from __future__ import annotations

from torch_regflat.workload import Collective, LoopNest, Operand, Operation, Tensor, Workload

M, N, K = 16, 8192, 8192


class Build:
    """Operations and tensors, one after the other."""

    def __init__(self):
        self.operations, self.tensors = [], {}

    def tensor(self, nbytes, role="activation", producer=None, is_output=False):
        number = len(self.tensors)
        self.tensors[number] = Tensor(number, f"t{number}", nbytes, role, producer, is_output)
        return number

    def product(self, x, path="", phase="", weight=None, rows=M):
        """x [rows, K] times a weight [N, K]; the tensor it makes."""
        nest = LoopNest(
            "product",
            (("m", rows), ("n", N), ("k", K)),
            (
                Operand(0, (((0, 1),), ((2, 1),)), 16),
                Operand(1, (((1, 1),), ((2, 1),)), 16, role="weight"),
                Operand(2, (((0, 1),), ((1, 1),)), 16, "write"),
            ),
            "bf16",
            flops=2 * rows * N * K,
        )
        weight = self.tensor(N * K * 2, "weight") if weight is None else weight
        made = self.tensor(rows * N * 2, producer=len(self.operations))
        self.operations.append(
            Operation(len(self.operations), "aten.mm.default", path, (nest,), (x, weight), (made,), phase=phase)
        )
        return made

    def exchange(self, kind, x, path="", ranks=8, phase="", role="activation", made_bytes=None):
        sent = self.tensors[x].nbytes
        made = self.tensor(made_bytes or sent, role, len(self.operations))
        target = f"_c10d_functional.{kind}.default"
        self.operations.append(
            Operation(
                len(self.operations), target, path, (), (x,), (made,), phase=phase,
                collective=Collective(kind, float(sent), ranks),
            )
        )  # fmt: skip
        return made

    def workload(self):
        made = self.operations[-1].outputs[0]
        last = self.tensors[made]
        self.tensors[made] = Tensor(last.id, last.name, last.nbytes, last.role, last.producer, True)
        return Workload(tuple(self.operations), self.tensors, "by hand")


def chained(layers=3, ranks=8):
    """Each product's result is summed over ranks before the next one reads it: tensor parallel layers."""
    build = Build()
    x = build.tensor(M * K * 2)
    for layer in range(layers):
        x = build.exchange("all_reduce", build.product(x, f"layers.{layer}.mlp"), f"layers.{layer}.mlp", ranks)
    return build.workload()


def parallel(layers=3, ranks=8):
    """Sums that no later product reads: gradients of data parallel training."""
    build = Build()
    x = build.tensor(M * K * 2)
    for layer in range(layers):
        build.exchange("all_reduce", build.product(x, f"layers.{layer}.mlp"), f"layers.{layer}.mlp", ranks)
    return build.workload()


def gathered(layers=6, ranks=8):
    """Weights that are gathered before each layer: fully sharded."""
    build = Build()
    x = build.tensor(M * K * 2)
    for layer in range(layers):
        shard = build.tensor(N * K * 2 // ranks, "weight")
        whole = build.exchange("all_gather", shard, f"layers.{layer}", ranks, role="weight", made_bytes=N * K * 2)
        x = build.product(x, f"layers.{layer}", weight=whole)
    return build.workload()
