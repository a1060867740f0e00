"""What a routed reader found out about its model lies in the models' cache, for the next start."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedding.encoder import TextEncoder
from embedding.models import ModelStore
from reader import language_model
from reader.checked import READ_PASSAGES
from service.models import load_reader
from service.settings import Settings
from tests.reader.families import build
from tests.reader.tiny import tiny_tokenizer


def test_anchors_are_kept_in_the_models_cache(
    tmp_path: Path, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    build("llama", context=2300).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)

    def load(passages: int) -> None:
        own = Settings(
            data=tmp_path,
            models_cache=tmp_path / "models",
            reader=f"hf:{folder}",
            reader_passages=passages,
        )
        load_reader(own.reader, own, ModelStore(own.models_cache), encoder)

    load(READ_PASSAGES)
    assert not (tmp_path / "models" / "anchors").exists()
    load(READ_PASSAGES + 1)
    assert len(list((tmp_path / "models" / "anchors").iterdir())) == 1
    monkeypatch.setattr(language_model, "find_anchors", None)
    load(READ_PASSAGES + 1)
