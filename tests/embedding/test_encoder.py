"""A vector's bits depend on its text alone; folders are read as sentence-transformers means them."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from embedding.encoder import CPU_BATCH_TOKENS, TextEncoder
from embedding.models import ModelStore, default_cache
from memory.errors import InvalidInputError
from tests.tiny import DIMENSION, WORDS, build_tiny_encoder

TEXTS = st.lists(
    st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=150).map(" ".join)),
    min_size=1, max_size=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return build_tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def encoder(folder) -> TextEncoder:
    return TextEncoder(folder, name="tiny", device="cpu", threads=2)


@pytest.fixture(scope="module")
def minilm() -> Path:
    cache = Path(os.environ.get("LETHE_MODELS_CACHE") or default_cache(os.environ))
    folder = ModelStore(cache, offline=True).find("all-minilm-l6-v2")
    if folder is None:
        pytest.skip("all-minilm-l6-v2 is not in the model cache (lethe models get all-minilm-l6-v2)")
    return folder


def sentences(count: int, seed: int) -> list[str]:
    """Texts of 1 to 250 words, so that several batches and cut texts occur."""
    draw = random.Random(seed)
    return [
        " ".join(draw.choices(WORDS, k=draw.choice((1, 3, 9, 17, 40, 75, 120, 250)))) for _ in range(count)
    ]


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, data=st.data())
def test_bits_do_not_depend_on_batch_or_order(encoder, texts, data):
    together = encoder.encode(texts, role="passage")
    order = data.draw(st.permutations(range(len(texts))))

    shuffled = encoder.encode([texts[i] for i in order], role="passage")
    alone = np.concatenate([encoder.encode([text], role="passage") for text in texts])

    assert np.array_equal(together, alone)
    assert np.array_equal(together[list(order)], shuffled)


def check_invariance(folder: Path, texts: list[str]) -> None:
    """Compare encoders and process-wide thread counts bit for bit, alone and in any company."""
    threads_before = torch.get_num_threads()
    one, three = (TextEncoder(folder, name="m", device="cpu", threads=n) for n in (1, 3))
    expected = one.encode(texts, role="passage")
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            assert np.array_equal(three.encode(texts, role="passage"), expected)
            assert np.array_equal(three.encode(texts[::-1], role="passage")[::-1], expected)
            for index in range(0, len(texts), 3):
                assert np.array_equal(one.encode([texts[index]], role="passage")[0], expected[index])
    finally:
        torch.set_num_threads(threads_before)


def test_bits_do_not_depend_on_threads(tmp_path):
    """As wide as a real model: matrix kernels differ in their sums at such widths only."""
    check_invariance(build_tiny_encoder(tmp_path, dimension=384), sentences(40, seed=1))


@pytest.mark.models
def test_bits_do_not_depend_on_threads_with_real_weights(minilm):
    check_invariance(minilm, sentences(24, seed=2))


@pytest.mark.models
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 10))
def test_bits_do_not_depend_on_batch_with_real_weights(minilm_encoder, seed, size):
    texts = sentences(size, seed)
    together = minilm_encoder.encode(texts, role="passage")
    index = seed % size
    assert np.array_equal(minilm_encoder.encode([texts[index]], role="passage")[0], together[index])


@pytest.fixture(scope="module")
def minilm_encoder(minilm) -> TextEncoder:
    return TextEncoder(minilm, name="all-minilm-l6-v2", device="cpu")


@pytest.mark.models
def test_vectors_are_those_of_sentence_transformers(minilm, minilm_encoder):
    from sentence_transformers import SentenceTransformer

    texts = ["The cat sat on the mat.", "Où est la gare ?", "", "engine " * 400]
    theirs = SentenceTransformer(str(minilm), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(minilm_encoder.encode(texts, role="passage"), theirs, atol=4e-4)


def reference(folder: Path, text: str, pooling: str) -> np.ndarray:
    """The plain path: padded by nothing, transformers' own attention."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=128, return_tensors="pt")
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(folder, attn_implementation="eager")(**tokens).last_hidden_state[0]
    pooled = hidden.mean(0) if pooling == "mean" else hidden[0]
    return torch.nn.functional.normalize(pooled, dim=0).numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_match_the_plain_path(tmp_path, pooling):
    build_tiny_encoder(tmp_path)
    flags = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    texts = sentences(9, seed=3)
    vectors = TextEncoder(tmp_path, name="tiny", device="cpu").encode(texts, role="passage")
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(vector, reference(tmp_path, text, pooling), atol=1e-3)


def test_rows_are_unit_and_exact_in_float16(encoder):
    vectors = encoder.encode(sentences(30, seed=4), role="passage")
    assert vectors.dtype == np.float32
    assert vectors.shape == (30, DIMENSION) == (30, encoder.space.dimension)
    assert np.array_equal(vectors, vectors.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)


def test_no_texts_give_no_rows(encoder):
    assert encoder.encode([], role="query").shape == (0, DIMENSION)


def test_the_space_tells_models_apart(tmp_path, encoder):
    other = TextEncoder(build_tiny_encoder(tmp_path / "other", seed=1), name="tiny", device="cpu")
    same = TextEncoder(build_tiny_encoder(tmp_path / "same"), name="tiny", device="cpu")
    assert other.space.digest != encoder.space.digest
    assert same.space == encoder.space
    assert encoder.space.numeric_class.startswith("cpu-")


def test_prompts_of_the_model_are_set_in_front(tmp_path):
    build_tiny_encoder(tmp_path)
    plain = TextEncoder(tmp_path, name="tiny", device="cpu")
    prompts = {"prompts": {"query": "what is ", "document": "the "}}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    prompted = TextEncoder(tmp_path, name="tiny", device="cpu")
    for role, prompt in (("query", "what is "), ("passage", "the ")):
        expected = plain.encode([prompt + "glass river"], role=role)
        assert np.array_equal(prompted.encode(["glass river"], role=role), expected)


def test_folders_that_would_be_misread_are_refused(tmp_path):
    build_tiny_encoder(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(InvalidInputError, match="max_tokens"):
        TextEncoder(tmp_path, name="tiny", device="cpu")


def test_the_rest_of_the_process_keeps_its_threads(folder):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        TextEncoder(folder, name="tiny", device="cpu", threads=3).encode(["river"], role="query")
        seen: list[int] = []
        reader = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        reader.start()
        reader.join()
        assert (torch.get_num_threads(), seen) == (2, [2])
    finally:
        torch.set_num_threads(before)


def test_a_query_overtakes_a_bulk_ingest(folder):
    """A query waits for the batches being encoded, not for all that were asked for before it."""
    encoder = TextEncoder(folder, name="tiny", device="cpu", threads=1)
    forward, batches = encoder._forward, []

    def slow_forward(texts):
        batches.append(len(texts))
        time.sleep(0.02)
        return forward(texts)

    encoder._forward = slow_forward
    bulk = sentences(40 * CPU_BATCH_TOKENS // 128, seed=5)
    ingest = threading.Thread(target=encoder.encode, args=(bulk,), kwargs={"role": "passage"})
    ingest.start()
    while not batches:
        time.sleep(0.001)
    started = len(batches)
    vector = encoder.encode(["who is alice"], role="query")
    done_when_answered = len(batches)
    ingest.join()
    assert done_when_answered - started <= 3 < len(batches) - started
    assert np.array_equal(vector, encoder.encode(["who is alice"], role="query"))


def test_many_threads_get_the_same_bits(encoder):
    texts = sentences(25, seed=6)
    expected = encoder.encode(texts, role="passage")
    results: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        results[number] = encoder.encode(texts[number:] + texts[:number], role="passage")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert np.array_equal(results[number], np.concatenate([expected[number:], expected[:number]]))
