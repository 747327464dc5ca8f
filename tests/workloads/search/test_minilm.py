import math

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from workloads.search.minilm import MiniLm

DIM, HEADS, LAYERS = 8, 2, 2
WORDS = [f"w{number}" for number in range(50)]


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (len(WORDS), DIM),
        "embeddings.position_embeddings.weight": (512, DIM),
        "embeddings.token_type_embeddings.weight": (2, DIM),
        "embeddings.LayerNorm.weight": (DIM,),
        "embeddings.LayerNorm.bias": (DIM,),
    }
    for layer in range(LAYERS):
        sizes = {
            "attention.self.query": (DIM, DIM),
            "attention.self.key": (DIM, DIM),
            "attention.self.value": (DIM, DIM),
        }
        sizes |= {"attention.output.dense": (DIM, DIM), "intermediate.dense": (16, DIM), "output.dense": (DIM, 16)}
        for name, shape in sizes.items():
            shapes |= {f"encoder.layer.{layer}.{name}.weight": shape, f"encoder.layer.{layer}.{name}.bias": shape[:1]}
        for name in ("attention.output", "output"):
            for kind in ("weight", "bias"):
                shapes[f"encoder.layer.{layer}.{name}.LayerNorm.{kind}"] = (DIM,)
    drawn = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return drawn | {"embeddings.position_ids": np.arange(512)[None]}


@pytest.fixture
def encoder(weights):
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=128)  # as the published file has it
    return MiniLm(weights, tokenizer, HEADS)


def by_hand(weights, token_ids):
    """One text, token by token, in float64."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}

    def norm(x, name):
        x = (x - x.mean()) / math.sqrt(x.var() + 1e-12)
        return x * w[f"{name}.LayerNorm.weight"] + w[f"{name}.LayerNorm.bias"]

    def dense(x, name):
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    xs = [
        norm(
            w["embeddings.word_embeddings.weight"][token]
            + w["embeddings.position_embeddings.weight"][place]
            + w["embeddings.token_type_embeddings.weight"][0],
            "embeddings",
        )
        for place, token in enumerate(token_ids)
    ]
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        q, k, v = ([dense(x, f"{name}.attention.self.{part}") for x in xs] for part in ("query", "key", "value"))
        new = []
        for place, x in enumerate(xs):
            attended = np.zeros(DIM)
            for head in range(HEADS):
                part = slice(head * DIM // HEADS, (head + 1) * DIM // HEADS)
                scores = np.array([q[place][part] @ key[part] for key in k]) / math.sqrt(DIM / HEADS)
                shares = np.exp(scores - scores.max())
                attended[part] = sum(share * value[part] for share, value in zip(shares / shares.sum(), v, strict=True))
            y = norm(x + dense(attended, f"{name}.attention.output.dense"), f"{name}.attention.output")
            hidden = [
                value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in dense(y, f"{name}.intermediate.dense")
            ]
            new.append(norm(y + dense(np.array(hidden), f"{name}.output.dense"), f"{name}.output"))
        xs = new
    mean = np.mean(xs, axis=0)
    return mean / np.linalg.norm(mean)


def test_vectors_are_those_worked_out_by_hand(encoder, weights):
    texts = ["w1 w2 w3", "w7", "w5 w4 w9 w9 w12 w3"]
    found = encoder.embed(texts)
    assert found.shape == (3, DIM)
    for text, vector in zip(texts, found, strict=True):
        expected = by_hand(weights, [int(word[1:]) for word in text.split()])
        np.testing.assert_allclose(vector, expected, atol=2e-5)


def test_neighbours_and_padding_change_nothing(encoder):
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, size=size)) for size in rng.integers(1, 120, size=70)]
    told = []
    together = encoder.embed(texts, lambda done, total: told.append((done, total)))
    assert told == [(32, 70), (64, 70), (70, 70)]
    for place in (0, 33, 69):
        np.testing.assert_allclose(encoder.embed([texts[place]])[0], together[place], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)


def test_only_the_first_256_tokens_are_read(encoder):
    long = " ".join(WORDS * 8)
    first = " ".join((WORDS * 8)[:256])
    np.testing.assert_array_equal(encoder.embed([long]), encoder.embed([first]))


def test_no_text_is_no_vector(encoder):
    assert encoder.embed([]).shape == (0, DIM)
