"""Access counts that ZigZag prints for known layers, written to tests/memory/zigzag.json for test_zigzag.py.

Needs ZigZag, which the project does not depend on, best in an environment of its own (it also imports six, without
asking for it):

    python -m venv /tmp/zigzag && /tmp/zigzag/bin/pip install zigzag-dse==3.9.1 six
    /tmp/zigzag/bin/python benchmarks/zigzag_counts.py

For each layer on each of two of the accelerators that ship with ZigZag, its search ("loma") picks the temporal mapping
of least energy for a given spatial one; recorded are that mapping and the counts of its cost model. That search keeps
loops that do not index an operand in the lowest memory they can be in. So that the other case is seen too, for some
layers the cost model also prices that mapping with the outermost loop of every memory moved to the memory above.
"""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
import zigzag  # type: ignore[import-not-found]
from zigzag.api import get_hardware_performance_zigzag  # type: ignore[import-not-found]
from zigzag.cost_model.cost_model import CostModelEvaluation  # type: ignore[import-not-found]
from zigzag.hardware.architecture.memory_port import DataDirection  # type: ignore[import-not-found]
from zigzag.mapping.data_movement import DataMoveAttr  # type: ignore[import-not-found]
from zigzag.mapping.temporal_mapping import TemporalMapping  # type: ignore[import-not-found]

TABLE = Path(__file__).parent.parent / "tests" / "memory" / "zigzag.json"
BITS = {"W": 8, "I": 8, "O": 16, "O_final": 8}
DIRECTIONS = ("RD_OUT_TO_LOW", "WR_IN_BY_LOW", "WR_IN_BY_HIGH", "RD_OUT_TO_HIGH")
"""Down and up at the lower end of a memory, then down and up at its upper end."""

# Convolutions come with their input padded: every window is whole. OY and OX are rows and columns of the output.
LAYERS: dict[str, dict[str, int]] = {
    "ResNet-18 layer1.0.conv1": {"K": 64, "C": 64, "OY": 56, "OX": 56, "FY": 3, "FX": 3},
    "ResNet-18 layer2.0.conv1": {"K": 128, "C": 64, "OY": 28, "OX": 28, "FY": 3, "FX": 3, "stride": 2},
    "ResNet-18 layer2.0.downsample": {"K": 128, "C": 64, "OY": 28, "OX": 28, "stride": 2},
    "ResNet-18 layer3.1.conv2": {"K": 256, "C": 256, "OY": 14, "OX": 14, "FY": 3, "FX": 3},
    "VGG-16 features.2": {"K": 64, "C": 64, "OY": 224, "OX": 224, "FY": 3, "FX": 3},
    "DeepLabv3-ResNet-50 layer4.1.conv2": {"K": 512, "C": 512, "OY": 28, "OX": 28, "FY": 3, "FX": 3, "dilation": 2},
    "MobileNetV2 features.5.conv.1": {"G": 192, "OY": 28, "OX": 28, "FY": 3, "FX": 3},
    "BERT-base query, 512 tokens": {"B": 512, "K": 768, "C": 768},
    "BERT-base intermediate, 512 tokens": {"B": 512, "K": 3072, "C": 768},
}
RAISED = (
    "ResNet-18 layer2.0.conv1",
    "ResNet-18 layer3.1.conv2",
    "MobileNetV2 features.5.conv.1",
    "BERT-base query, 512 tokens",
)
"""Layers that are also priced with loops moved up."""
SPATIAL: dict[str, dict[str, dict[str, list[str]]]] = {
    "tpu_like": {
        "product": {"D1": ["K, 32"], "D2": ["C, 32"]},
        "convolution": {"D1": ["K, 32"], "D2": ["C, 32"]},
        "depthwise": {"D1": ["G, 32"], "D2": ["FY, 3"]},
    },
    "eyeriss_like": {
        "product": {"D1": ["K, 12"], "D2": ["C, 3", "B, 4"]},
        "convolution": {"D1": ["OY, 14"], "D2": ["FY, 3", "K, 4"]},
        "depthwise": {"D1": ["OY, 14"], "D2": ["FY, 3", "G, 4"]},
    },
}


def kind(layer: dict[str, int]) -> str:
    if "OY" not in layer:
        return "product"
    return "depthwise" if "G" in layer else "convolution"


def workload(layer: dict[str, int]) -> dict[str, Any]:
    """The layer in ZigZag's format."""
    common = {"id": 0, "operand_precision": BITS, "operand_source": {"W": 0, "I": 0}}
    if kind(layer) == "product":
        dims = ("B", "K", "C")
        form: dict[str, Any] = {"operator_type": "Gemm", "equation": "O[b][k]+=W[c][k]*I[b][c]"}
    else:
        dims = ("B", "K", "G", "OX", "OY", "C", "FX", "FY")
        stride, dilation = layer.get("stride", 1), layer.get("dilation", 1)
        form = {
            "operator_type": "Conv",
            "equation": "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]",
            "dimension_relations": [f"ix={stride}*ox+{dilation}*fx", f"iy={stride}*oy+{dilation}*fy"],
            "pr_loop_dims": ["IX", "IY"],
        }
    return common | form | {"loop_dims": list(dims), "loop_sizes": [layer.get(d, 1) for d in dims]}


def loops(found: list[tuple[Any, float]]) -> str:
    """Loops as text, innermost first: "C2 FX3" for two steps along C inside three along FX."""
    assert all(size == int(size) for _, size in found), f"A loop that does not divide: {found}"
    return " ".join(f"{dim}{int(size)}" for dim, size in found if size > 1)


def evaluate(chip: str, layer: dict[str, int], folder: Path) -> Any:
    """ZigZag's evaluation of the mapping it chose."""
    mapping = [
        {
            "name": "default",
            "spatial_mapping": SPATIAL[chip][kind(layer)],
            "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"},
        }
    ]
    (folder / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    _, _, found = get_hardware_performance_zigzag(
        [workload(layer)],
        str(Path(zigzag.__path__[0]) / "inputs" / "hardware" / f"{chip}.yaml"),
        str(folder / "mapping.yaml"),
        opt="energy",
        dump_folder=str(folder),
        loma_show_progress_bar=False,
    )
    return found[0][1][0][0]


def raised(chosen: Any) -> Any:
    """ZigZag's evaluation of the mapping in which every memory's outermost loop is in the memory above."""
    temporal = {}
    for operand, levels in chosen.temporal_mapping.mapping_dic_origin.items():
        outermost = [[], *(level[-1:] for level in levels[:-1])]
        kept = [*(level[:-1] for level in levels[:-1]), levels[-1]]
        temporal[operand] = [up + stay for up, stay in zip(outermost, kept, strict=True)]
    return CostModelEvaluation(
        accelerator=chosen.accelerator,
        layer=chosen.layer,
        spatial_mapping=chosen.spatial_mapping,
        spatial_mapping_int=chosen.spatial_mapping_int,
        temporal_mapping=TemporalMapping(temporal, chosen.layer, chosen.temporal_mapping.type),
    )


def record(evaluation: Any) -> dict[str, Any]:
    """For each operand, what each MAC unit of the array works on at once, and its memories, innermost first."""
    mapping, table = evaluation.mapping, {}
    for operand in mapping.operand_list:
        memory_operand = evaluation.memory_operand_links.layer_to_mem_op(operand)
        spread = evaluation.spatial_mapping.mapping_dict_origin[operand]
        levels = []
        for number, temporal in enumerate(evaluation.temporal_mapping.mapping_dic_origin[operand]):
            level = evaluation.accelerator.get_memory_level(memory_operand, number)
            moved = mapping.unit_mem_data_movement[operand][number].get_attribute(DataMoveAttr.DATA_ELEM_MOVE_COUNT)
            words = evaluation.memory_word_access[operand][number]
            directions = [DataDirection[name] for name in DIRECTIONS]
            levels.append(
                {
                    "memory": level.name,
                    "loops": loops(temporal),
                    "units": loops(spread[number + 1]),
                    "elements": [int(moved.get(d)) for d in directions],
                    "words": [int(words.get(d)) for d in directions],
                    "port_bits": [
                        [level.get_min_bandwidth(memory_operand, d), level.get_max_bandwidth(memory_operand, d)]
                        for d in directions
                    ],
                }
            )
        table[str(operand)] = {"array": loops(spread[0]), "levels": levels}
    return table


def write(cases: list[dict[str, Any]]) -> None:
    """One memory a line, so that a change reads as one."""
    lines = []
    for case in cases:
        operands = []
        for name, found in case["operands"].items():
            levels = ",\n    ".join(json.dumps(level) for level in found["levels"])
            array = json.dumps(found["array"])
            operands.append(f'   {json.dumps(name)}: {{"array": {array}, "levels": [\n    {levels}]}}')
        head = ", ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in case.items() if k != "operands")
        lines.append(f'  {{{head}, "operands": {{\n' + ",\n".join(operands) + "}}")
    head = json.dumps({"zigzag": zigzag.__version__, "bits": BITS, "directions": DIRECTIONS})[1:-1]
    TABLE.write_text(f'{{{head},\n "cases": [\n' + ",\n".join(lines) + "\n]}\n")


def main() -> None:
    logging.disable(logging.WARNING)
    cases = []
    for name, layer in LAYERS.items():
        for chip in SPATIAL:
            with tempfile.TemporaryDirectory() as folder:
                evaluation = evaluate(chip, layer, Path(folder))
            found = {"chosen": evaluation} | ({"raised": raised(evaluation)} if name in RAISED else {})
            for mapping, evaluated in found.items():
                case = {"layer": name, "sizes": layer, "chip": chip, "mapping": mapping}
                cases.append(case | {"operands": record(evaluated)})
            print(f"{name} on {chip}")
    write(cases)
    print(f"{len(cases)} cases in {TABLE}")


if __name__ == "__main__":
    main()
