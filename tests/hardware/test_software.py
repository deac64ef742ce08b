from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torch_regflat.errors import ChipError
from torch_regflat.hardware import library, software
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import Software


@pytest.mark.parametrize("name", software.names())
def test_shipped(name: str) -> None:
    found = software.load(name)
    assert found.name == name
    assert software.load(found) is found
    assert all(quantity.source in found.sources or " " in quantity.source for _, quantity in found.quantities())
    assert len(set(found.tiles)) == len(found.tiles)


def test_menu_depends_on_how_the_engine_is_fed() -> None:
    libraries = software.load("cuda-libraries")
    h100, a100 = library.load("h100"), library.load("a100")
    assert len(libraries.tiles_for(a100.engine_for("bf16"))) == 18
    assert len(libraries.tiles_for(h100.engine_for("bf16"))) == 27
    assert len(set(libraries.tiles_for(h100.engine_for("bf16")))) == 27
    assert libraries.tiles_for(None) == libraries.tiles
    assert all(16 <= size <= 256 for tile in libraries.tiles for size in tile)


def test_ideal_mapper_loses_nothing() -> None:
    ideal = software.load("ideal-mapper")
    assert not ideal.tiles and not ideal.tile_k
    assert ideal.overlap == "max"
    assert ideal.issue_efficiency.value == ideal.memory_efficiency.value == ideal.l2_efficiency.value == 1.0
    assert ideal.prologue.value == ideal.split_cost.value == 0.0


def test_unknown() -> None:
    with pytest.raises(ChipError) as caught:
        software.load("cuda-library")
    assert str(caught.value).startswith("unknown software 'cuda-library'; did you mean cuda-libraries")
    with pytest.raises(ChipError, match=r"software file no.toml: there is no such file; known are .*cuda-libraries"):
        software.load("no.toml")


def changed(**changes: Any) -> str:
    data = software.load("cuda-libraries").model_dump(by_alias=True, exclude_none=True) | changes
    with pytest.raises(ChipError) as caught:
        Software.from_dict(data, "mine.toml")
    return str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    share = {"value": 1.5, "unit": "1", "source": "made up", "kind": "fit"}
    assert changed(issue_efficiency=share) == "mine.toml: issue_efficiency: 1.5 is too large; it must be at most 1"
    assert changed(colour=1).startswith("mine.toml: colour: unknown key")
    menu = {"tiles": [[0, 128]], "source": "made up", "kind": "fit"}
    assert changed(menu=menu) == "mine.toml: menu.tiles: 0 is not a size; sizes are whole numbers from 1 on"
    path = tmp_path / "mine.toml"
    path.write_text("schema = 1\n", encoding="utf-8")
    with pytest.raises(ChipError, match=r"mine.toml: name: missing"):
        software.load(path)


def test_a_variant_is_the_software_it_changes_but_for_what_it_says() -> None:
    base, variant = software.load("cuda-libraries"), software.load("serving-2025")
    assert variant.variant_of == "cuda-libraries"
    assert base.attention is not None and variant.attention is not None
    assert base.attention.memory_efficiency is None and variant.attention.memory_efficiency is not None
    assert variant.attention.memory_efficiency.value < base.stream_efficiency.value
    assert variant.menu == base.menu and variant.switching == base.switching


def test_a_variant_is_only_for_chips_that_run_what_it_changes() -> None:
    variant = software.load("triton-experts")
    assert software.for_chip(load("h100-sxm"), variant) == variant
    other = load("regflat-physical")
    assert software.for_chip(other, variant) == software.for_chip(other)


def test_replacing_numbers_and_unknown_names() -> None:
    base = software.load("cuda-libraries")
    assert base.replace({"launch_ratio": {"value": 2.0}}).launch_ratio.value == 2.0
    assert base.replace({}) == base
    assert base.replace({"winograd": None}).winograd is None
    with pytest.raises(ChipError, match=r"software has no table 'attentoin'; did you mean attention\?"):
        base.replace({"attentoin.wide_head": {"value": 0.5}})
    with pytest.raises(ChipError, match="unknown key"):
        base.replace({"attention.wide_hed": {"value": 0.5}})
