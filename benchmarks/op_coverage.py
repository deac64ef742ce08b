"""How much of ATen and of torch.nn is covered: torch's own `op_db` and `module_db`, with their own sample inputs.

    python benchmarks/op_coverage.py                  # every sample of every entry: minutes
    python benchmarks/op_coverage.py --samples 2      # the first two of each
    python benchmarks/op_coverage.py --only linalg    # entries whose name contains this
    python benchmarks/op_coverage.py --modules        # module_db instead

An entry is *priced* when every operator it ran has a formula of its family; one that had to be priced by its traffic
alone is *by traffic*. *Refused* is a clear refusal of what depends on values; anything else that raises *failed*.
Needs `expecttest` (in the `test` extra), which torch's test helpers import.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from tabulate import tabulate
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

import torch_regflat as regflat
from torch_regflat.operators import workload
from torch_regflat.workload import Workload


@dataclass
class Outcome:
    """What came of one entry: the worst status of its samples, and why."""

    name: str
    status: str = "priced"
    reason: str = ""
    samples: int = 0
    seconds: float = 0.0
    by_traffic: Counter[str] = field(default_factory=Counter)
    counter_flops: int = 0

    def worsen(self, status: str, reason: str) -> None:
        order = ("priced", "by traffic", "refused", "torch", "flops", "figures", "failed")
        if order.index(status) > order.index(self.status):
            self.status, self.reason = status, " ".join(reason.split())[:300]


def run(name: str, calls: Iterator[tuple[Any, tuple[Any, ...], dict[str, Any]]]) -> Outcome:
    """Profile every call of an entry; the first through `profile`, the others as far as the workload."""
    outcome, start = Outcome(name), time.perf_counter()
    for fn, args, kwargs in calls:
        try:
            _one(outcome, fn, args, kwargs)
        except regflat.CaptureError as error:
            known = "depends on" in str(error)  # a value that is not known, or the size of a sparse tensor
            torch_too = not known and not _runs(fn, args, kwargs)
            outcome.worsen("refused" if known else "torch" if torch_too else "failed", str(error))
        except Exception as error:
            outcome.worsen("failed", f"{type(error).__name__}: {error}")
        outcome.samples += 1
    outcome.seconds = time.perf_counter() - start
    return outcome


def _one(outcome: Outcome, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if outcome.samples == 0:
        profile = regflat.profile(fn, args, kwargs, chip="regflat-physical")
        found, total = profile.workload, profile.total
        figures = [total.latency_s, total.energy_j, total.utilization]
        if bad := [x for x in figures if not (math.isfinite(x) and x >= 0)]:
            outcome.worsen("figures", f"total {bad}")
    else:
        found = workload(regflat.trace(fn, args, kwargs))
    if bad := bad_figures(found):
        outcome.worsen("figures", bad)
    if missing := [op.target for op in found if not op.modelled]:
        outcome.by_traffic.update(missing)
        outcome.worsen("by traffic", ", ".join(sorted(set(missing))))
    counted = counter_flops(fn, args, kwargs)
    if counted:
        outcome.counter_flops += counted
        if found.flops != counted:
            outcome.worsen("flops", f"{found.flops} FLOPs, torch counts {counted} for {_shapes(args)} {kwargs}")


def bad_figures(found: Workload) -> str:
    """The first figure that is negative or not a number."""
    for op in found:
        for nest in op.nests:
            figures = (nest.flops, nest.work, nest.vector_ops, nest.special_ops, nest.compulsory_bytes())
            if not all(math.isfinite(x) and x >= 0 for x in figures) or any(size < 1 for size in nest.sizes):
                return f"{op.target} {op.shapes}: {figures} {nest.dims}"
            if nest.kind != "movement" and math.fsum(figures) == 0:
                return f"{op.target} {op.shapes}: nothing at all"
    return ""


def counter_flops(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """FLOPs by torch's own counter, on meta tensors where they will do (on the CPU it counts no attention)."""
    for device in ("meta", "cpu"):
        given = tree_map_only(torch.Tensor, lambda t, d=device: t.detach().clone().to(d), (args, kwargs))
        try:
            target = fn.to(device) if isinstance(fn, torch.nn.Module) and device == "meta" else fn
            with torch.inference_mode(), FlopCounterMode(display=False) as counter:
                target(*given[0], **given[1])
        except Exception:
            continue
        return int(counter.get_total_flops())
    return 0


def _runs(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether torch itself runs this, on the CPU, in inference mode."""
    given = tree_map_only(torch.Tensor, lambda t: t.detach().clone(), (args, kwargs))
    try:
        with torch.inference_mode():
            fn(*given[0], **given[1])
    except Exception:
        return False
    return True


def _shapes(args: Any) -> str:
    return str(tree_map_only(torch.Tensor, lambda t: list(t.shape), args))


def op_entries(only: str = "") -> list[Any]:
    from torch.testing._internal.common_methods_invocations import op_db

    return [op for op in op_db if only in label(op)]


def label(op: Any) -> str:
    return op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")


def op_calls(op: Any, samples: int | None) -> Iterator[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """The sample inputs of an `op_db` entry in float32 (another dtype where it has no float32), on the CPU."""
    kinds = op.supported_dtypes("cpu") or op.supported_dtypes("cuda")
    dtype = torch.float32 if torch.float32 in kinds else sorted(kinds, key=str)[0]
    torch.manual_seed(0)
    for sample in islice(op.sample_inputs("cpu", dtype, requires_grad=False), samples):
        yield op.op, (sample.input, *sample.args), sample.kwargs


def module_entries(only: str = "") -> list[Any]:
    from torch.testing._internal.common_modules import module_db

    return [info for info in module_db if only in info.name]


def module_calls(info: Any, samples: int | None) -> Iterator[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """The modules of a `module_db` entry, each with its forward input."""
    torch.manual_seed(0)
    dtype = torch.float64 if info.name == "nn.FractionalMaxPool2d" else torch.float32  # its samples hold float64
    inputs = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=False)
    for given in islice((i for i in inputs if i.forward_input is not None), samples):
        made = given.constructor_input
        module = info.module_cls(*made.args, **made.kwargs).eval()
        if issubclass(info.module_cls, torch.nn.modules.lazy.LazyModuleMixin):
            module(*given.forward_input.args, **given.forward_input.kwargs)  # a lazy module gets its shapes from a run
        yield module, tuple(given.forward_input.args), given.forward_input.kwargs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, help="so many of each entry; by default all")
    parser.add_argument("--only", default="", help="entries whose name contains this")
    parser.add_argument("--modules", action="store_true", help="module_db instead of op_db")
    parser.add_argument("--all", action="store_true", help="list the priced entries too")
    options = parser.parse_args()
    if options.modules:
        outcomes = [run(i.name, module_calls(i, options.samples)) for i in module_entries(options.only)]
    else:
        outcomes = [run(label(op), op_calls(op, options.samples)) for op in op_entries(options.only)]
    shown = [o for o in outcomes if options.all or o.status != "priced"]
    print(tabulate([(o.name, o.status, o.samples, round(o.seconds, 2), o.reason[:200]) for o in shown],
                   headers=("entry", "status", "samples", "s", "why")))  # fmt: skip
    print()
    statuses = Counter(o.status for o in outcomes)
    for status, count in statuses.most_common():
        print(f"{status:12} {count:5}  {count / len(outcomes):7.2%}")
    counted = sum(o.counter_flops > 0 for o in outcomes)
    samples, seconds = sum(o.samples for o in outcomes), sum(o.seconds for o in outcomes)
    print(f"{len(outcomes)} entries, {samples} samples, {seconds:.0f} s; torch counts FLOPs of {counted} entries")


if __name__ == "__main__":
    main()
