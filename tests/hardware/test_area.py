"""The area model against published dies and memories, and register-flat twins."""

from __future__ import annotations

import pytest

from torch_regflat.errors import ChipError, InputError
from torch_regflat.hardware import area, library
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.feeding import needed_bytes, notes, starving

WITHIN = 0.15


def on_die(name: str, cores: int, l2: str) -> Chip:
    """A chip with all that is on its die, not only what is switched on."""
    return library.load(name).replace(**{"cores.count": f"{cores} 1", "memory.L2.capacity": l2})


DIES = {
    # NVIDIA, A100 whitepaper: 128 SMs, 48 MiB, six stacks, 826 mm2; its blocks were measured (LLMCompass, figure 6).
    "A100": (on_die("a100-sxm-80gb", 128, "48 MiB"), 6, 12, 826.0),
    # AMD: 112 CUs, 8 MiB, 724 mm2 with 87.5 mm2 of Infinity Fabric, which the model does not have (LLMCompass).
    "MI210": (on_die("mi210", 112, "8 MiB"), 8, 0, 724.0 - 87.5),
    # Chips and Cheese: 144 SMs, 60 MB, 814 mm2. No number of the model was chosen on it.
    "H100": (on_die("h100-sxm", 144, "60 MiB"), 6, 18, 814.0),
}


@pytest.mark.parametrize("name", DIES)
def test_dies(name: str) -> None:
    chip, stacks, links, published = DIES[name]
    assert area.die_mm2(chip, stacks=stacks, links=links) == pytest.approx(published, rel=WITHIN)


def test_blocks_of_the_a100() -> None:
    """Measured on photographs of the die (LLMCompass, figure 6)."""
    chip, stacks, links, _ = DIES["A100"]
    blocks = area.blocks(chip, stacks=stacks, links=links)
    cores = sum(blocks[name] for name in ("registers", "shared", "control", "vector", "matrix"))
    assert cores == pytest.approx(476.25, rel=WITHIN)
    assert blocks["L2"] == pytest.approx(119.31, rel=WITHIN)
    assert blocks["network"] == pytest.approx(76.44, rel=WITHIN)
    assert blocks["memory interface"] == pytest.approx(58 + 31.77, rel=WITHIN)


@pytest.mark.parametrize(
    ("chip", "kind", "mib", "published"),
    [
        ("a100-sxm-80gb", "shared_cache", 48, 119.31),  # LLMCompass, figure 6
        ("mi210", "shared_cache", 8, 25.2),  # LLMCompass, figure 6
        ("a100-sxm-80gb", "array", 64, 41.0),  # AMD V-Cache, ISSCC 2022, 26.4
        ("a100-sxm-80gb", "array", 64, 36.0),  # its second generation, Tom's Hardware 2023
        ("a100-sxm-80gb", "tile", 48 / 1024, 0.038 / 2),  # a core of WSE-2, IEEE Micro 2023
    ],
)
def test_memories(chip: str, kind: area.MemoryKind, mib: float, published: float) -> None:
    assert mib * area.mm2_per_mib(library.load(chip), kind) == pytest.approx(published, rel=WITHIN)


def test_registers_take_what_the_shipped_chip_says() -> None:
    physical = library.load("regflat-physical")
    assert area.mm2_per_mib(physical, "flat") == pytest.approx(0.70, rel=0.01)
    assert area.areas().memory.flat.low < 0.70e-6 / area.scale(physical).memory.value < area.areas().memory.flat.high


def test_the_twin_of_the_h100() -> None:
    """Its caches' area, spent on registers; nothing else changes but what follows from that."""
    chip = library.load("h100-sxm")
    twin = library.load("h100-sxm:flat")
    assert twin == chip.flatten()
    level = twin.on_chip[0]
    freed = area.level_mm2(chip, chip.level("shared")) + area.level_mm2(chip, chip.level("L2"))
    assert level.area is not None and freed * 0.97 < level.area.value / 1e-6 <= freed
    for dtype in chip.dtypes:
        assert twin.peak_flops(dtype) == chip.peak_flops(dtype)
    for field in ("capacity", "read_bandwidth", "read_energy", "interface_energy"):
        assert getattr(twin.external, field) == getattr(chip.external, field)
    assert (twin.clock, twin.power.limit, twin.die, twin.execution) == (
        chip.clock, chip.power.limit, chip.die, chip.execution
    )  # fmt: skip
    leaks = level.leakage_w - chip.level("L2").leakage_w
    assert twin.power.static.value < chip.power.static.value + leaks
    assert str(library.describe(twin)).count("Freed: shared 33.0 MiB = 69 mm2, L2 50.0 MiB = 109 mm2") == 1
    assert starving(twin) == [
        "registers cannot feed cuda: products in fp64 take 516 B a clock and SM at full rate, and its port gives 376 B "
        "(73 % of the rate)"
    ]


@pytest.mark.parametrize("name", ["a100-sxm-80gb", "v100-sxm2", "l4", "mi300x", "tpu-v4", "b200"])
def test_every_chip_has_a_twin(name: str) -> None:
    chip = library.load(name)
    by_area, by_power, all_ = chip.flatten(), chip.flatten("power"), chip.flatten(registers=True)
    assert by_power.on_chip_bytes <= by_area.on_chip_bytes <= all_.on_chip_bytes
    # What leaks, leaks no more than the memories did.
    gone = sum(
        level.leakage_w if level.leakage is not None else level.capacity_bytes * 8 * 1e-3 / 2**20
        for level in chip.on_chip
        if area.kind_of(chip, level) != "register_file"
    )
    assert by_power.on_chip[0].leakage_w <= gone * (1 + 1e-9)
    assert by_power.power.static.value <= chip.power.static.value + 1e-9
    assert Chip.from_dict(by_area.to_dict()) == by_area


def refused(name: str) -> str:
    with pytest.raises(ChipError) as caught:
        library.load(name)
    return str(caught.value)


def test_twins_that_cannot_be() -> None:
    assert refused("h100-sxm:flat+900MiB") == (
        "h100-sxm: 900 MiB of registers take 632 mm2 at 0.70 mm2/MiB, and shared and L2 free 179 mm2, enough for "
        "255 MiB"
    )
    assert refused("h100-sxm:flat+4MiB") == (
        "h100-sxm: 4.00 MiB of registers are 0 B a SM in banks of 32 KiB, and one tile of tensor (64 x 256 x 16), "
        "twice buffered, needs 23.8 KiB"
    )
    assert refused("regflat-physical:flat") == (
        "regflat-physical is register-flat already; flatten a chip with caches or scratchpads"
    )
    assert refused("h100-sxm:flatt").startswith("unknown variant 'flatt' of a chip; write :flat or :flat-power, with ")
    assert refused("h100-sxm:flat+fast").startswith("unknown option 'fast' of flat; write +registers, or a capacity")
    assert refused("h10:flat").startswith("unknown chip 'h10'; did you mean h100")
    with pytest.raises(InputError, match='iso is \'cost\'; it must be "area" or "power"'):
        library.load("h100-sxm").flatten("cost")  # type: ignore[arg-type]
    bare = library.load("h100-sxm").replace(**{"die.node": None})
    with pytest.raises(ChipError, match="h100-sxm: its file gives no die.node, so areas of its parts are not known"):
        bare.flatten()


def test_a_port_that_cannot_feed_its_engines_is_reported() -> None:
    chip = library.load("regflat-physical")
    assert not any("array" in sentence for sentence in starving(chip))
    narrow = chip.replace(**{"memory.registers.read_bandwidth": "128 B/clk/tile"})
    assert needed_bytes(narrow.engines[0], "bf16") == 256
    (array,) = (sentence for sentence in notes(narrow) if "array" in sentence)
    assert array == (
        "registers cannot feed array: products in bf16 take 256 B a clock and tile at full rate, and its port gives "
        "121 B (47 % of the rate)"
    )
    assert starving(library.load("h100-sxm")) == []


def test_only_external_levels_are_a_hosts() -> None:
    with pytest.raises(ChipError, match="memory.SRAM: host = true is for the external level of a chip that has no"):
        library.load("groq-lpu").replace(**{"memory.SRAM.host": True})


def test_a_guess_at_a_product_lists_what_it_guesses() -> None:
    chip = library.load("vsora-jotunn8-estimate")
    (sentence,) = (s for s in notes(chip) if s.startswith("vsora-jotunn8-estimate guesses at a product"))
    guessed = [path for path, quantity in chip.quantities() if quantity.kind == "estimate"]
    assert f"these {len(guessed)} numbers: " in sentence
    assert all(path in sentence for path in guessed)
    assert "memory.registers.capacity" in guessed and "memory.HBM.capacity" not in guessed
    assert [name for name in library.names() if library.load(name).speculative] == [chip.name]
