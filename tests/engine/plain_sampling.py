"""Sampling in plain numpy, one row at a time, sorting where the device code bisects: the oracle of its tests."""

import numpy as np

from s2l_jax.core.params import SamplingParams


def penalised(logits: np.ndarray, params: SamplingParams, history: np.ndarray, prompt_tokens: int) -> np.ndarray:
    logits = logits.astype(np.float64)
    for token in np.unique(history):
        factor = params.repetition_penalty
        logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    for token in history[prompt_tokens:]:
        logits[token] -= params.frequency_penalty
    for token in np.unique(history[prompt_tokens:]):
        logits[token] -= params.presence_penalty
    return logits


def probabilities(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """What the draw chooses from: temperature, min-p, top-k, top-p, in this order."""
    if params.is_greedy:
        return (np.arange(len(logits)) == np.argmax(logits)).astype(np.float64)
    scaled = logits.astype(np.float64) / params.temperature
    mass = np.exp(scaled - scaled.max())
    mass[mass < params.min_p] = 0.0
    if params.top_k:
        smallest_kept = np.sort(mass)[-params.top_k :][0]
        mass[mass < smallest_kept] = 0.0
    if params.top_p < 1.0:
        descending = np.sort(mass)[::-1]
        needed = int(np.argmax(np.cumsum(descending) >= params.top_p * mass.sum()))
        mass[mass < descending[needed]] = 0.0
    return mass / mass.sum()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())
