"""Control flow and attention that reach the recorder as higher-order operators, with functions among their arguments.

- `cond`: the branch that is taken, where the predicate's value is known or hinted; else both are looked at, the one
  with more work is recorded, and a note says so.
- `while_loop`: unrolled, as often as its condition holds, or as a hint says (a number of steps); else it is refused.
- `scan`: its body once for each element, then one stack of each output.
- `flex_attention`: one node; the share of blocks that a BlockMask of known values computes is noted on it.
- any other: recorded by what torch itself runs for it in eager mode, if it has that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from ..errors import CaptureError
from ._torch_private import OpInfo, eager_kernel, is_nested_scan
from .hints import NOTHING, as_count, as_number
from .values import Unknown

if TYPE_CHECKING:
    from .recorder import Recorder

MAX_STEPS = 10_000
_PLAIN = OpInfo(None, (), (), False, False, False, False, False)


def record(recorder: Recorder, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record one call of a higher-order operator and return what it gives."""
    rule = _RULES.get(op.name())
    return rule(recorder, op, *args, **kwargs) if rule else _as_eager(recorder, op, args, kwargs)


def _known(recorder: Recorder, predicate: Any) -> bool:
    """The value of a predicate, or `Unknown`."""
    if not isinstance(predicate, torch.Tensor):
        return bool(predicate)
    with recorder.paused():
        return bool(recorder.values.evaluate(recorder.node(predicate)))


def _cond(recorder: Recorder, op: Any, predicate: Any, true_fn: Any, false_fn: Any, operands: Any = ()) -> Any:
    branches: tuple[Callable[..., Any], ...] = (true_fn, false_fn)
    try:
        taken = branches[0 if _known(recorder, predicate) else 1]
    except Unknown as unknown:
        hint = recorder.answers.hinted()
        if hint is not NOTHING:
            with recorder:
                return branches[0 if as_number(*hint) else 1](*operands)
        work = [recorder.work_of(branch, operands) for branch in branches]
        taken = branches[0 if work[0] >= work[1] else 1]
        name = "true" if taken is true_fn else "false"
        recorder.note(
            f"the condition of a cond depends on {unknown.why}: its {name} branch, the one with more work, is priced"
        )
    with recorder:
        return taken(*operands)


def _while_loop(
    recorder: Recorder, op: Any, cond_fn: Any, body_fn: Any, carried: Any, additional: Any = (), **options: Any
) -> Any:
    if any(options.values()):
        raise CaptureError(f"{recorder.here()}: a while_loop with stacked outputs is not recorded")
    values = tuple(carried)
    steps: int | None = None
    for done in range(MAX_STEPS):
        with recorder:
            predicate = cond_fn(*values, *additional)
        try:
            goes_on = done < steps if steps is not None else _known(recorder, predicate)
        except Unknown as unknown:
            hint = recorder.answers.hinted()
            if hint is NOTHING:
                raise recorder.answers.refusal("runs a while_loop for a number of steps", unknown) from None
            steps = as_count(hint[0], hint[1], "the number of steps")
            goes_on = done < steps
        if not goes_on:
            return values
        with recorder:
            values = tuple(pytree.tree_leaves(body_fn(*values, *additional)))
    raise CaptureError(f"{recorder.here()}: a while_loop has not ended after {MAX_STEPS} steps; its body is unrolled")


def _scan(recorder: Recorder, op: Any, combine_fn: Any, init: Any, xs: Any, additional_inputs: Any = ()) -> Any:
    carry, outputs = list(init), []
    nested = is_nested_scan(combine_fn)  # it returns (carry, output), each a tree; else one flat sequence
    with recorder:
        for i in range(xs[0].shape[0]):
            made = combine_fn(*carry, *(x.select(0, i) for x in xs), *additional_inputs)
            if nested:
                last, output = made
                carry = pytree.tree_leaves(last)
            else:
                last, output = list(made[: len(carry)]), list(made[len(carry) :])
                carry = last
            outputs.append(output)
        stacked = pytree.tree_map(lambda *ys: torch.stack(ys), outputs[0], *outputs[1:])
    return (last, stacked) if nested else (*last, *stacked)


def _flex_attention(recorder: Recorder, op: Any, query: Any, key: Any, value: Any, *rest: Any, **kwargs: Any) -> Any:
    _, node_args = recorder.split((query, key, value, *rest))
    shape = (*query.shape[:-1], value.shape[-1])
    statistics = [torch.empty(query.shape[:-1], dtype=torch.float32, device="meta") for _ in range(2)]
    out = (torch.empty(shape, dtype=query.dtype, device="meta"), *statistics)
    node = recorder.append(op, _PLAIN, node_args, {}, out)
    node.meta["domain_fraction"] = _block_share(recorder, rest[1]) if len(rest) > 1 else 1.0
    return out


def _block_share(recorder: Recorder, mask: tuple[Any, ...]) -> float:
    """Share of the blocks of queries x keys that a BlockMask computes, from its counts, where these are known.

    A BlockMask as a tuple: lengths of queries and keys, then for each row of blocks the number of partly masked ones,
    which they are, and the same of whole ones; at the end the block's sides and the function.
    """
    keys, partial, full = mask[1], mask[2], mask[4]
    side = mask[-2]
    try:
        with recorder.paused():
            counts = [recorder.values.evaluate(recorder.node(t)) for t in (partial, full) if t is not None]
    except Unknown:
        recorder.note("flex_attention is priced over its full square: the values of its BlockMask are not known")
        return 1.0
    blocks: int = counts[0].numel() * max(-(-int(keys) // int(side)), 1)
    computed: int = sum(int(count.sum()) for count in counts)
    return min(computed / max(blocks, 1), 1.0)


def _as_eager(recorder: Recorder, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    kernel = eager_kernel(op)
    if kernel is None:
        raise CaptureError(f"{recorder.here()}: the higher-order operator {op.name()} cannot be recorded")
    with recorder:
        return kernel(*args, **kwargs)


_RULES: dict[str, Callable[..., Any]] = {
    "cond": _cond,
    "while_loop": _while_loop,
    "scan": _scan,
    "flex_attention": _flex_attention,
}
