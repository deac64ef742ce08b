"""Control flow and flex_attention: what is recorded of operators that take functions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

import torch_regflat as regflat
from torch_regflat.operators import workload
from torch_regflat.workload import LoopNest


def x(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


class Branches(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 64)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cond(hidden.sum() > 0, self.linear, torch.sin, (hidden,))


def line_of(words: str) -> str:
    """The number of the first line of this file that has these words."""
    lines = Path(__file__).read_text().splitlines()
    return str(1 + next(at for at, line in enumerate(lines) if words in line))


def targets(graph: torch.fx.GraphModule) -> list[str]:
    return [op.target for op in workload(graph)]


class TestCond:
    def test_unknown_takes_the_branch_with_more_work_and_says_so(self) -> None:
        profile = regflat.profile(Branches().to("meta"), x(8, 64))
        assert profile.workload.flops == 2 * 8 * 64 * 64
        assert profile.result.notes == (
            "Branches: the condition of a cond depends on the input 'hidden', whose values are not known: "
            "its true branch, the one with more work, is priced",
        )

    @pytest.mark.parametrize(("value", "target"), [(1.0, "aten.linear.default"), (-1.0, "aten.sin.default")])
    def test_known_takes_that_branch(self, value: float, target: str) -> None:
        graph = regflat.trace(Branches(), (torch.full((8, 64), value),))
        assert targets(graph)[-1] == target
        assert graph.meta["notes"] == ()

    @pytest.mark.parametrize(("hint", "target"), [(True, "aten.linear.default"), (False, "aten.sin.default")])
    def test_hinted_takes_that_branch(self, hint: bool, target: str) -> None:
        hints = {"test_higher_order.py:" + line_of("return torch.cond("): hint}
        graph = regflat.trace(Branches(), (x(8, 64),), hints=hints)
        assert targets(graph)[-1] == target
        assert graph.meta["notes"] == ()

    def test_what_is_recorded_runs(self) -> None:
        model, given = Branches(), torch.rand(8, 64)
        graph = regflat.trace(model, (given,))
        (result,) = torch.fx.Interpreter(graph).run(given)
        torch.testing.assert_close(result, model.linear(given))


class TestWhileLoop:
    @staticmethod
    def power(count: torch.Tensor, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        def square(i: torch.Tensor, m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return i + 1, m @ m

        return while_loop(lambda i, _: i < 5, square, (count, matrix))  # type: ignore[no-any-return]

    def test_a_known_count_is_unrolled(self) -> None:
        assert workload(regflat.trace(self.power, (torch.tensor(2), x(8, 8)))).flops == 3 * 2 * 8**3

    def test_an_unknown_count_is_refused(self) -> None:
        with pytest.raises(
            regflat.CaptureError,
            match=r"test_higher_order\.py:\d+ runs a while_loop for a number of steps that depends on the input "
            r"'count', whose values are not known; pass a real CPU tensor for input 'count'",
        ):
            regflat.trace(self.power, (self.unknown, x(8, 8)))

    unknown = torch.empty((), dtype=torch.int64, device="meta")

    @pytest.mark.parametrize("steps", [0, 4])
    def test_a_hint_says_how_many_steps(self, steps: int) -> None:
        hints = {"test_higher_order.py:" + line_of("return while_loop("): steps}
        assert workload(regflat.trace(self.power, (self.unknown, x(8, 8)), hints=hints)).flops == steps * 2 * 8**3

    def test_a_hint_that_is_no_number_of_steps_is_refused(self) -> None:
        hints = {"test_higher_order.py:" + line_of("return while_loop("): True}
        with pytest.raises(regflat.InputError, match="has to be the number of steps, got True"):
            regflat.trace(self.power, (self.unknown, x(8, 8)), hints=hints)


def test_scan_is_its_body_times_the_length() -> None:
    def run(carry: torch.Tensor, xs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result: tuple[torch.Tensor, torch.Tensor] = scan(lambda c, m: (c @ m, c.sum(-1)), carry, xs)
        return result

    graph = regflat.trace(run, (x(8, 8), x(6, 8, 8)))
    assert workload(graph).flops == 6 * 2 * 8**3
    assert [tuple(n.meta["val"].shape) for n in graph.graph.output_node().args[0]] == [(8, 8), (6, 8)]


def causal(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return q >= k


class TestFlexAttention:
    args = (x(2, 4, 512, 64), x(2, 4, 512, 64), x(2, 4, 512, 32))
    flops = 2 * 2 * 4 * 512 * 512 * (64 + 32)

    def nest(self, graph: torch.fx.GraphModule) -> LoopNest:
        (operation,) = [op for op in workload(graph) if op.target == "flex_attention"]
        assert operation.flops == self.flops and operation.modelled
        return operation.nests[0]

    def test_full_square(self) -> None:
        nest = self.nest(regflat.trace(flex_attention, self.args))
        assert nest.domain_fraction == 1 and nest.special_ops == 2 * 4 * 512 * 512

    @pytest.mark.parametrize("as_argument", [False, True])
    def test_sparsity_of_a_real_block_mask(self, as_argument: bool) -> None:
        mask = create_block_mask(causal, None, None, 512, 512, device="cpu")

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, own: BlockMask = mask) -> object:
            return flex_attention(q, k, v, block_mask=own)

        nest = self.nest(regflat.trace(attend, (*self.args, mask) if as_argument else self.args))
        assert nest.domain_fraction == 10 / 16  # 4 x 4 blocks of 128, those on and below the diagonal
        assert nest.work == self.flops * 10 / 16

    def test_torch_is_left_as_it_was(self) -> None:
        mask = create_block_mask(causal, None, None, 128, 128, device="cpu")
        regflat.trace(flex_attention, self.args)
        assert isinstance(mask.kv_num_blocks, torch.Tensor) and "kv_num_blocks" not in vars(BlockMask)
        with pytest.raises(ValueError, match="meta device"):
            flex_attention(*self.args)


class TestCompiled:
    """What was given to the compiler is recorded as it was written."""

    def test_module(self) -> None:
        assert workload(regflat.trace(torch.compile(torch.nn.Linear(4, 4)), (x(4, 4),))).flops == 128

    def test_function(self) -> None:
        assert workload(regflat.trace(torch.compile(lambda a: a @ a), (x(4, 4),))).flops == 128

    def test_inside(self) -> None:
        inner = torch.nn.Linear(4, 4)
        net = torch.nn.Sequential(torch.compile(inner), torch.nn.Linear(4, 4))
        net[1].compile()
        assert workload(regflat.trace(lambda a: torch.compile(net)(a), (x(4, 4),))).flops == 2 * 128


def test_block_mask_made_in_the_forward() -> None:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> object:
        mask = create_block_mask(causal, None, None, 512, 512, device=q.device)
        return flex_attention(q, k, v, block_mask=mask)

    (operation,) = [op for op in workload(regflat.trace(attend, TestFlexAttention.args)) if "flex" in op.target]
    assert operation.nests[0].domain_fraction == 10 / 16
