"""A small Llama as a folder with a config.json: seconds for whole sweeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model's spec."""
    folder = Path(tmp_path_factory.mktemp("llama"))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return str(folder)
