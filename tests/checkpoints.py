"""A small Llama checkpoint with a tokenizer: one that transformers can load as well as we.

Its logits have a deviation of 1 at least, so what is compared with transformers means something.
"""

from __future__ import annotations

from pathlib import Path

from transformers import LlamaConfig

from tests.models.harness import tiny_checkpoint
from tests.tokenizers import byte_level_bpe

CONTEXT = 512


def tiny_llama(folder: Path, *, context_length: int = CONTEXT, seed: int = 0) -> str:
    """Write it, in float32; gives the folder's name."""
    vocabulary = byte_level_bpe(folder)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocabulary,
        max_position_embeddings=context_length,
        bos_token_id=None,
        eos_token_id=None,
    )
    tiny_checkpoint(config, folder, seed=seed)
    return str(folder)
