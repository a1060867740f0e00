"""The relay: one reader's claims or the other's, never both, and the cost of both is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import UnavailableError
from memory.ports import Reader
from memory.values import Claim, Evidence, PassageId, Reading
from reader.checked import CheckedReader
from reader.extractive import ExtractiveReader
from reader.language_model import LanguageModelWriter
from reader.openai import OpenAIWriter
from reader.relay import RelayReader
from service.reader_server import ReaderServer
from tests.openai_server import OpenAIServer, chunk, refusal
from tests.reader.tiny import ToldModel, tiny_tokenizer

EVIDENCE = [Evidence(PassageId("a"), "The harbour bridge opened in 1932. It is made of steel.")]
QUESTION = "When did the harbour bridge open?"
TRUE = "The harbour bridge opened in 1932."
FALSE = "The harbour bridge opened in 1999."


@pytest.fixture
def server(openai: OpenAIServer) -> OpenAIServer:
    openai.say(TRUE)
    return openai


@pytest.fixture
def large(server: OpenAIServer) -> Iterator[Reader]:
    with closing(ReaderServer(server.url)) as connection:
        yield CheckedReader(OpenAIWriter(connection, model="large"))


def small(text: str) -> Reader:
    """A reader over a tiny model of this process."""
    tokenizer = tiny_tokenizer()
    return CheckedReader(LanguageModelWriter(ToldModel(tokenizer, text), tokenizer, name="small"))


def said(relay: RelayReader) -> tuple[list[Claim], Reading]:
    """Return the claims as they come, and the reading at the end."""
    claims: list[Claim] = []
    coming = relay.iter_claims(QUESTION, EVIDENCE)
    while True:
        try:
            claims.append(next(coming))
        except StopIteration as end:
            return claims, end.value


def test_a_small_reader_that_is_sure_is_not_gone_over(server: OpenAIServer, large: Reader) -> None:
    relay = RelayReader(small(TRUE), large)
    claims, reading = said(relay)
    assert not server.asked
    assert reading.reader == relay.read(QUESTION, EVIDENCE).reader == "small"
    assert [claim.text for claim in claims] == [TRUE]
    assert tuple(claims) == reading.claims
    assert reading.tokens.keys() == {"prompt", "read", "completion"}


@pytest.mark.parametrize("text", ["I do not know.", f"{FALSE} It is made of wood. {TRUE}"])
def test_what_the_small_one_is_not_sure_of_is_the_large_ones(
    server: OpenAIServer, large: Reader, text: str
) -> None:
    """It abstains, or the evidence carries a third of what it says; none of that leaves."""
    relay = RelayReader(small(text), large)
    claims, reading = said(relay)
    assert [claim.text for claim in claims] == [TRUE]
    assert tuple(claims) == reading.claims
    assert reading.reader == relay.read(QUESTION, EVIDENCE).reader == "openai:large"
    assert reading.tokens["prompt"] == 100 and reading.tokens["small_prompt"] > 100
    assert reading.tokens["small_completion"] == len(text)
    parts = {"rank", "prefill", "decode", "check"}
    assert reading.timings_ms.keys() == parts | {f"small_{part}" for part in parts}
    assert len(server.asked) == 2


def test_the_extractive_reader_may_be_the_small_one(server: OpenAIServer, large: Reader) -> None:
    sure, unsure = (RelayReader(ExtractiveReader(), large, hand_over_below=least) for least in (0.0, 1.0))
    assert said(sure)[1].reader == "extractive"
    assert said(unsure)[1].reader == "openai:large"
    assert unsure.name == "extractive, then openai:large"


def test_without_the_large_one_the_small_ones_reading_stands(server: OpenAIServer, large: Reader) -> None:
    server.refusal = refusal(503, "loading")
    relay = RelayReader(small(f"{FALSE} {TRUE}"), large, hand_over_below=1.0)
    claims, reading = said(relay)
    assert reading.reader == "small"
    assert tuple(claims) == reading.claims == relay.read(QUESTION, EVIDENCE).claims
    assert [claim.text for claim in claims] == [FALSE, TRUE]
    assert reading.tokens.keys() == {"prompt", "read", "completion"}


def test_once_the_large_one_speaks_the_small_one_is_silent(server: OpenAIServer, large: Reader) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield chunk(f"{TRUE} It is made of")

    server.lines = breaking
    coming = RelayReader(small("I do not know."), large).iter_claims(QUESTION, EVIDENCE)
    assert next(coming).text == TRUE
    with pytest.raises(UnavailableError, match="broke off"):
        list(coming)


def test_closing_ends_the_large_readers_work(server: OpenAIServer, large: Reader) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield chunk(f"{TRUE} It is made of")
        while True:
            yield b": still there\n\n"
            await asyncio.sleep(0.01)

    server.lines = endless
    with closing(RelayReader(small("I do not know."), large).iter_claims(QUESTION, EVIDENCE)) as coming:
        next(coming)
    assert server.ended.wait(3), "it writes on for nobody"


class Saying:
    """Says so many claims, the first ones supported, with a confidence."""

    def __init__(self, name: str, supported: int, unsupported: int, confidence: float) -> None:
        self.name = name
        claims = [Claim(f"{name} {at}", supported=at < supported) for at in range(supported + unsupported)]
        self.reading = Reading(tuple(claims), confidence, name, {"prompt": 1}, {"rank": 1.0})

    def iter_claims(self, question, evidence, shelf=None, *, explain=False):
        yield from self.reading.claims
        return self.reading

    def read(self, question, evidence, shelf=None, *, explain=False):
        return self.reading


SAYING = (st.integers(0, 2), st.integers(0, 2), st.floats(0, 1))


@given(
    st.builds(Saying, st.just("small"), *SAYING),
    st.builds(Saying, st.just("large"), *SAYING),
    st.floats(0, 1),
)
def test_claims_are_those_of_the_reading_and_of_one_reader(one: Saying, other: Saying, least: float) -> None:
    """Streaming yields what reading returns; the small one's is taken just when it answers and is sure."""
    relay = RelayReader(one, other, hand_over_below=least)
    claims, reading = said(relay)
    assert reading == relay.read(QUESTION, EVIDENCE)
    sure = not one.reading.abstained and one.reading.confidence >= least
    assert reading.reader == ("small" if sure else "large")
    assert tuple(claims) == reading.claims == (one if sure else other).reading.claims
    assert ("small_prompt" in reading.tokens) == (not sure)
