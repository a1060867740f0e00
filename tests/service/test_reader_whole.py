"""The setting that has the best passages read whole each time reaches the reader."""

from pathlib import Path

import pytest

from embedding.encoder import TextEncoder
from embedding.models import ModelStore
from service.models import load_reader
from service.settings import Settings
from tests.reader.test_language_model import QUESTION, WHOLE, DictShelf
from tests.reader.tiny import tiny_model, tiny_tokenizer


@pytest.mark.parametrize(("whole", "remembered"), [(0, 2), (1, 1), (2, 0)])
def test_what_is_read_whole_is_not_remembered(
    whole: int, remembered: int, tmp_path: Path, encoder: TextEncoder
) -> None:
    """Two passages are shown, and nothing is remembered of those that are read whole."""
    folder, shelf = tmp_path / "model", DictShelf()
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    own = Settings(data=tmp_path, models_cache=tmp_path / "models", reader=f"hf:{folder}", reader_whole=whole)
    reader = load_reader(own.reader, own, ModelStore(own.models_cache), encoder)

    reader.read(QUESTION, WHOLE, shelf)

    assert len(shelf.payloads) == remembered
