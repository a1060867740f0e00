"""The switch: answers from the first moment, and whatever happens to the model."""

import threading

import pytest

from memory.errors import BusyError, CorruptionError, LeftError, LetheError, UnavailableError
from memory.ports import Shelf
from memory.values import Claim, Evidence, Reading
from reader.switch import SwitchingReader

OUT_OF_MEMORY = UnavailableError("out of memory")


class Saying:
    """A reader that says its name, or raises after so many claims."""

    def __init__(
        self, name: str, *, fails_after: int | None = None, error: LetheError = OUT_OF_MEMORY
    ) -> None:
        self.name = name
        self._fails_after = fails_after
        self._error = error

    def iter_claims(self, question, evidence, shelf=None, *, explain=False):
        for number in range(2):
            if number == self._fails_after:
                raise self._error
            yield Claim(f"{self.name} {number}", supported=True)

    def read(
        self, question: str, evidence: list[Evidence], shelf: Shelf | None = None, *, explain: bool = False
    ) -> Reading:
        return Reading(tuple(self.iter_claims(question, evidence)), 1.0, self.name)


def names(switch: SwitchingReader) -> list[str]:
    return [claim.text for claim in switch.iter_claims("?", [])]


def test_it_answers_before_and_after_the_load():
    gate = threading.Event()

    def load() -> Saying:
        gate.wait(10)
        return Saying("model")

    switch = SwitchingReader(Saying("plain"), load)
    assert switch.read("?", []).reader == "plain"  # not even started
    switch.start()
    assert (switch.read("?", []).reader, switch.name) == ("plain", "plain")
    gate.set()
    assert switch.wait(10)
    assert (switch.read("?", []).reader, switch.name) == ("model", "model")
    assert names(switch) == ["model 0", "model 1"]


@pytest.mark.parametrize(
    ("error", "told"), [(CorruptionError("not a model"), CorruptionError), (MemoryError(), UnavailableError)]
)
def test_a_failed_load_leaves_the_plain_reader_and_says_why(error, told):
    def load() -> Saying:
        raise error

    switch = SwitchingReader(Saying("plain"), load)
    switch.start()
    assert not switch.wait(10)
    assert type(switch.failure) is told
    assert names(switch) == ["plain 0", "plain 1"]


def test_it_steps_in_when_the_model_is_unavailable():
    switch = SwitchingReader(Saying("plain"), lambda: Saying("model", fails_after=0))
    switch.start()
    switch.wait(10)
    assert switch.read("?", []).reader == "plain"
    assert names(switch) == ["plain 0", "plain 1"]


@pytest.mark.parametrize("error", [BusyError("too many", retry_in_seconds=3), LeftError()])
def test_it_does_not_step_in_for_who_is_to_come_again_or_has_gone(error):
    switch = SwitchingReader(Saying("plain"), lambda: Saying("model", fails_after=0, error=error))
    switch.start()
    assert switch.wait(10)
    for read in (lambda: switch.read("?", []), lambda: names(switch)):
        with pytest.raises(type(error)):
            read()


def test_closing_the_claims_ends_the_readers_work():
    ended = threading.Event()

    class Endless(Saying):
        def iter_claims(self, question, evidence, shelf=None, *, explain=False):
            try:
                while True:
                    yield Claim("more", supported=True)
            finally:
                ended.set()

    switch = SwitchingReader(Saying("plain"), lambda: Endless("model"))
    switch.start()
    assert switch.wait(10)
    claims = switch.iter_claims("?", [])
    next(claims)
    claims.close()
    assert ended.is_set()


def test_it_does_not_step_in_midway():
    """Two readers' sentences are never mixed in one stream."""
    switch = SwitchingReader(Saying("plain"), lambda: Saying("model", fails_after=1))
    switch.start()
    switch.wait(10)
    with pytest.raises(UnavailableError):
        names(switch)
