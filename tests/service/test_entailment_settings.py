"""What may reject claims besides the rules: chosen by settings, refused where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

from embedding.encoder import TextEncoder
from memory.errors import InvalidInputError
from memory.values import Evidence, PassageId
from reader.alignment import LEAST_ALIGNMENT, Alignment
from reader.pair_classifier import PairClassifier
from reader.span_classifier import SpanClassifier
from service.models import check_readers, load_entailment, load_reader
from service.settings import Settings
from tests.reader.tiny import tiny_model, tiny_tokenizer

SHAPE = {
    "vocab_size": 259,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_labels": 1,
}


def settings(tmp_path: Path, **given: object) -> Settings:
    return Settings(data=tmp_path, models_cache=tmp_path / "models", **given)  # type: ignore[arg-type]


def test_by_default_the_rules_are_alone(tmp_path: Path, encoder: TextEncoder) -> None:
    assert load_entailment(settings(tmp_path), encoder) is None


def test_the_embedder_aligns(tmp_path: Path, encoder: TextEncoder) -> None:
    made = load_entailment(settings(tmp_path, entailment="alignment"), encoder)
    assert isinstance(made, Alignment)
    assert made.least == LEAST_ALIGNMENT
    stricter = load_entailment(settings(tmp_path, entailment="alignment", entailment_least=0.9), encoder)
    assert stricter is not None
    assert stricter.least == 0.9


@pytest.mark.parametrize(
    ("kind", "model", "made"),
    [
        ("spans", BertForTokenClassification, SpanClassifier),
        ("pairs", BertForSequenceClassification, PairClassifier),
    ],
)
def test_a_classifier_comes_from_its_folder(kind, model, made, tmp_path: Path, encoder: TextEncoder) -> None:
    model(BertConfig(**{**SHAPE, "num_labels": 2 if kind == "spans" else 1})).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load_entailment(settings(tmp_path, entailment=kind, entailment_folder=tmp_path), encoder)
    assert isinstance(loaded, made)


def test_a_judge_is_the_readers_own_model(tmp_path: Path, encoder: TextEncoder) -> None:
    from embedding.models import ModelStore

    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    own = settings(tmp_path, reader=f"hf:{folder}", entailment="judge", entailment_least=0.999)
    check_readers(own)
    reader = load_reader(own.reader, own, ModelStore(own.models_cache), encoder)
    evidence = [Evidence(PassageId("a"), "The harbour bridge opened in 1932.")]
    assert reader.read("When did the harbour bridge open?", evidence).reader == own.reader


REMEMBERED_OTHERWISE = (
    "LETHE_READER_WHOLE, LETHE_READER_KEPT, LETHE_READER_BLENDED, LETHE_READER_TEMPERATURE and "
    "LETHE_READER_SCALE"
)


@pytest.mark.parametrize(
    ("given", "mend"),
    [
        ({"reader": "extractive", "entailment": "judge"}, "LETHE_ENTAILMENT"),
        ({"reader": "openai", "reader_url": "http://127.0.0.1:1", "entailment": "judge"}, "LETHE_ENTAILMENT"),
        ({"entailment": "spans"}, "LETHE_ENTAILMENT_FOLDER"),
        ({"entailment": "pairs"}, "LETHE_ENTAILMENT_FOLDER"),
        ({"reader_blended": 0.15, "reader_kept": 0.5}, "LETHE_READER_BLENDED or LETHE_READER_KEPT"),
        ({"reader_temperature": 0.8, "reader_passages": 8}, "LETHE_READER_PASSAGES"),
        ({"reader": "extractive", "reader_kept": 0.5}, REMEMBERED_OTHERWISE),
        ({"reader": "extractive", "reader_whole": 1}, REMEMBERED_OTHERWISE),
        ({"reader_scale": 0.8, "reader_passages": 8}, "LETHE_READER_PASSAGES"),
    ],
)
def test_what_cannot_be_is_refused_with_the_setting_to_mend(given, mend, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as refused:
        check_readers(settings(tmp_path, **given))
    assert refused.value.where == mend
