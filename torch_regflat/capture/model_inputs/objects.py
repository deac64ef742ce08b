"""Inputs that are objects of a model's own classes: sessions of video trackers, bundles of atoms."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import torch

from .declared import Declared, Maker
from .images import channels, image_size
from .text import length

_CLIP = 2  # frames in a session
_ATOMS = 8  # of a residue


def session(d: Declared) -> Any:
    """A tracker's session on the first frame of a clip, with one click on one object where it takes clicks."""
    height, width = image_size(d)
    made: Any = _class_of(d, "inference_session")(
        video=d.meta(_CLIP, channels(d), height, width), video_height=height, video_width=width,
        inference_device="meta", inference_state_device="meta", video_storage_device="meta", dtype=d.dtype,
    )  # fmt: skip
    if hasattr(made, "add_prompt"):  # words say what to look for
        prompt = made.add_prompt("a word")
        made.prompt_input_ids[prompt] = torch.ones(1, 32, dtype=torch.long)
        made.prompt_attention_masks[prompt] = torch.ones(1, 32, dtype=torch.long)
        return made
    click = {"point_coords": d.meta(1, 1, 1, 2), "point_labels": torch.ones(1, 1, 1, dtype=torch.int32)}
    made.point_inputs_per_obj[made.obj_id_to_idx(1)][0] = click
    made.obj_with_new_inputs = [1]
    return made


def _atom_inputs(d: Declared) -> Any:
    """As many atoms as eight for each residue."""
    atoms = length(d) * _ATOMS
    of_token = torch.arange(length(d)).repeat_interleave(_ATOMS)[None].repeat(d.batch, 1)
    values = {
        "ref_pos": d.meta(d.batch, atoms, 3),
        "ref_charge": d.meta(d.batch, atoms),
        "atom_attention_mask": torch.ones(d.batch, atoms, dtype=torch.bool),
        "ref_element": torch.full((d.batch, atoms), 6),
        "ref_atom_name_chars": torch.zeros(d.batch, atoms, 4, dtype=torch.long),
        "ref_space_uid": of_token,
        "atom_to_token": of_token,
    }
    kind = _class_of(d, "atom_inputs")
    return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})


def _class_of(d: Declared, parameter: str) -> Any:
    """The class that the declaration of a parameter names."""
    kind = d.parameters[parameter].annotation
    return getattr(sys.modules[type(d.model).__module__], kind) if isinstance(kind, str) else kind


def _residues(d: Declared) -> torch.Tensor:
    return torch.arange(length(d))[None].repeat(d.batch, 1)


def _one_chain(d: Declared) -> torch.Tensor:
    return torch.zeros(d.batch, length(d), dtype=torch.long)


MAKERS: dict[str, Maker] = {
    "inference_session": session,
    "frame_idx": lambda d: 0,
    # A protein, one chain.
    "atom_inputs": _atom_inputs,
    "token_index": _residues,
    "residue_index": _residues,
    "asym_id": _one_chain,
    "sym_id": _one_chain,
    "entity_id": _one_chain,
    "mol_type": _one_chain,
    "res_type": _one_chain,
    "token_bonds": lambda d: d.meta(d.batch, length(d), length(d), 1),
}
