"""The other side of oracle_greedy.py: transformers on torch, float32, in an environment of its own (Python 3.11)."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.utils import logging

SMALL = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
THIN = SMALL | {"num_hidden_layers": 1}


def families():
    """One small member of each family, with what sets it apart from the others."""
    return {
        "llama2": LlamaConfig(**THIN | {"num_key_value_heads": 4}),
        "llama3_tied_sharded": LlamaConfig(**SMALL, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
        "llama_linear_biases": LlamaConfig(**THIN, rope_parameters=LINEAR_ROPE, attention_bias=True, mlp_bias=True),
        "llama_yarn": LlamaConfig(**THIN, rope_parameters=YARN_ROPE),
        "mistral_window": MistralConfig(**THIN, sliding_window=7, head_dim=16),
        "mistral_full": MistralConfig(**THIN, sliding_window=None),
        "qwen2_tied": Qwen2Config(**SMALL, tie_word_embeddings=True),
        "qwen2_window": Qwen2Config(**THIN, use_sliding_window=True, sliding_window=5, max_window_layers=0),
        "qwen3": Qwen3Config(**THIN, head_dim=16),
        "qwen3_tied_biases": Qwen3Config(**THIN, head_dim=8, tie_word_embeddings=True, attention_bias=True),
    }


def make_families(directory):
    """Writes a checkpoint of each family, with tokens and the logits of all positions beside it."""
    torch.manual_seed(0)
    tokens = torch.randint(0, SMALL["vocab_size"], (1, 40))
    for name, config in families().items():
        target = directory / name
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                is_norm = key.endswith("norm.weight")
                parameter.normal_(1.0 if is_norm else 0.0, 0.3)
        sharded = {"max_shard_size": "12KB"} if name.endswith("sharded") else {}
        model.to(torch.bfloat16).save_pretrained(target, **sharded)
        model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
        with torch.no_grad():
            logits = model(tokens).logits[0].numpy()
        np.savez_compressed(target / "expected.npz", tokens=tokens[0].numpy().astype(np.int32), logits=logits)


def greedy(model_directory, job_path, directory):
    """Continues each prompt of the job greedily; writes tokens and the logits they were taken from."""
    job = json.loads(job_path.read_text())
    model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32).eval()
    for index, prompt in enumerate(job["prompts"]):
        ids, cache, tokens, rows = torch.tensor([prompt]), None, [], []
        with torch.no_grad():
            for _ in range(job["tokens"]):
                out = model(ids, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                rows.append(out.logits[0, -1].numpy())
                tokens.append(int(rows[-1].argmax()))
                ids = torch.tensor([tokens[-1:]])
        np.savez(directory / f"{index}.npz", tokens=np.array(tokens, np.int32), logits=np.stack(rows))


if __name__ == "__main__":
    logging.disable_progress_bar()
    if sys.argv[1] == "families":
        make_families(Path(sys.argv[2]))
    else:
        greedy(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
