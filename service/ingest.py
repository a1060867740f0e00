"""From journal entries to artifacts: parse, encode, fold the entry's own tree, all named and linked.

Entries are taken in batches, so that a bulk load shares transactions and the encoder's batches;
what becomes of one entry never depends on the others in its batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from embedding.codes import encode_codes
from memory.errors import InvalidInputError, LetheError, NothingToReadError
from memory.kernel import Kernel
from memory.ledger import Artifact, Recipe, artifact_name
from memory.parsed import dump_parsed
from memory.ports import Encoder, Parser, ScreenText, Speech, Vectors
from memory.telling import Told, unheard
from memory.values import (
    CUES_MEDIA_TYPE,
    ArtifactName,
    Content,
    EntryId,
    JsonValue,
    Parsed,
    Part,
    Place,
    Section,
    TenantId,
)
from retrieval.hierarchy import Sum, fold_nodes, unit
from service.payloads import NodeOutline, dump_nodes, dump_vectors
from sources.parse import needs_models

OVERRUN_MS = 2_000
"""So much a passage may reach beyond its segment's end, where it is cut off: frames and cues are not cut."""


@dataclass(frozen=True, slots=True)
class Recipes:
    """The recipes of this installation; a change of model changes the names of what it makes.

    ``timed`` is what parses media and captions, ``parse`` all else: what hears speech names nothing of texts.
    """

    parse: Recipe
    timed: Recipe
    vectors: Recipe
    nodes: Recipe
    topics: Recipe
    index: Recipe

    @classmethod
    def of(
        cls, encoder: Encoder, speech: Speech | None = None, screen_text: ScreenText | None = None
    ) -> Recipes:
        """Return the recipes that go with an encoder, and with what hears recordings and reads pictures."""
        space = encoder.space
        parameters: dict[str, JsonValue] = {
            "model": space.model,
            "digest": space.digest,
            "dimension": space.dimension,
            "numeric_class": space.numeric_class,
        }
        heard: dict[str, JsonValue] = (
            {} if speech is None else {"speech": speech.name, "speech_digest": speech.digest}
        )
        if screen_text is not None:
            heard |= {"screen_text": screen_text.name, "screen_text_digest": screen_text.digest}
        return cls(
            parse=Recipe("parse", 2),
            timed=Recipe("timed", 1, heard),
            vectors=Recipe("vectors", 1, parameters),
            nodes=Recipe("nodes", 1, parameters),
            topics=Recipe("topics", 2, parameters),
            index=Recipe("index", 1, parameters),
        )


@dataclass(frozen=True, slots=True)
class Names:
    """The artifacts of one entry."""

    parse: ArtifactName
    vectors: ArtifactName
    nodes: ArtifactName


def name_artifacts(
    kernel: Kernel, recipes: Recipes, tenant_id: TenantId, entry_id: EntryId, *, timed: bool = False
) -> Names:
    """Return the names of what this entry's recipes make; ``timed`` for media and captions."""
    parse = name_parsed(kernel, recipes, tenant_id, entry_id, timed=timed)
    vectors = artifact_name(kernel.vault, tenant_id, recipes.vectors, [parse])
    return Names(parse, vectors, artifact_name(kernel.vault, tenant_id, recipes.nodes, [parse, vectors]))


def name_parsed(
    kernel: Kernel, recipes: Recipes, tenant_id: TenantId, entry_id: EntryId, *, timed: bool
) -> ArtifactName:
    """Return the name of an entry's text alone; ``timed`` for media and captions."""
    return artifact_name(kernel.vault, tenant_id, recipes.timed if timed else recipes.parse, [entry_id])


def list_names(kernel: Kernel, recipes: Recipes, tenant_id: TenantId, entry_id: EntryId) -> tuple[Names, ...]:
    """Return the names that an entry's artifacts may have, where it is not known whether it is timed.

    Only one of them are there, but for the time between a change of recipes and the end of the rebuilding:
    then what is timed comes first.
    """
    return tuple(name_artifacts(kernel, recipes, tenant_id, entry_id, timed=timed) for timed in (True, False))


@dataclass(frozen=True, slots=True)
class Derived:
    """What was made of one entry; ``vectors`` has shape (passages, dimension)."""

    entry_id: EntryId
    parsed: Parsed
    vectors: Vectors
    nodes: tuple[NodeOutline, ...]
    timed: bool = False


def embedding_text(parsed: Parsed, index: int) -> str:
    """Return what the encoder sees of a passage: its context, then its text."""
    passage = parsed.passages[index]
    text = parsed.text[passage.start : passage.end]
    return f"{passage.context}\n{text}" if passage.context else text


def node_code(total: Sum) -> str:
    """Return the binary code of a node's embedding, in hexadecimal."""
    code: bytes = encode_codes(unit(total)[None])[0].tobytes()
    return code.hex()


def derive(
    parsed: Mapping[EntryId, Parsed], encoder: Encoder, timed: Collection[EntryId] = ()
) -> list[Derived]:
    """Encode parsed entries in one go and fold each one's tree; ``timed`` are those of media and captions."""
    texts = [
        embedding_text(entry, index) for entry in parsed.values() for index in range(len(entry.passages))
    ]
    vectors = encoder.encode(texts, role="passage")
    made: list[Derived] = []
    start = 0
    for entry_id, entry in parsed.items():
        own = vectors[start : start + len(entry.passages)]
        start += len(entry.passages)
        nodes = tuple(
            NodeOutline(node.section, node.passages, node.summary, node_code(node.total))
            for node in fold_nodes(entry, own)
        )
        made.append(Derived(entry_id, entry, own, nodes, entry_id in timed))
    return made


def to_artifacts(
    kernel: Kernel, recipes: Recipes, tenant_id: TenantId, made: Sequence[Derived]
) -> list[Artifact]:
    """Return the artifacts of derived entries, each sealed under its entry's key."""
    artifacts: list[Artifact] = []
    for derived in made:
        names = name_artifacts(kernel, recipes, tenant_id, derived.entry_id, timed=derived.timed)
        under = derived.entry_id
        parse = recipes.timed if derived.timed else recipes.parse
        artifacts += [
            Artifact(names.parse, parse.name, (under,), dump_parsed(derived.parsed), under),
            Artifact(
                names.vectors, recipes.vectors.name, (names.parse,), dump_vectors(derived.vectors), under
            ),
            Artifact(
                names.nodes,
                recipes.nodes.name,
                (names.parse, names.vectors),
                dump_nodes(derived.nodes),
                under,
            ),
        ]
    return artifacts


@dataclass(slots=True)
class Read:
    """What was read of contents, why the rest could not be, and how many that were: those of them that came
    first. ``timed`` are media and captions."""

    parsed: dict[EntryId, Parsed] = field(default_factory=dict)
    timed: set[EntryId] = field(default_factory=set)
    refused: dict[EntryId, LetheError] = field(default_factory=dict)
    count: int = 0


def parse_contents(
    parser: Parser,
    contents: Iterable[tuple[EntryId, Content | None]],
    *,
    seconds: float = math.inf,
    told: Callable[[EntryId, float], None] | None = None,
) -> Read:
    """Parse contents one by one, ``None`` for those that are gone; begin none after so many seconds.

    ``told`` hears how far a content is that takes long, 0..1.
    """
    read, late = Read(), time.monotonic() + seconds
    for entry_id, content in contents:
        read.count += 1
        if content is not None:
            try:
                hears = unheard if told is None else partial(told, entry_id)
                read.parsed[entry_id] = _parse(parser, content, hears)
                if needs_models(content.media_type):
                    read.timed.add(entry_id)
            except LetheError as error:
                read.refused[entry_id] = error
        if time.monotonic() > late:
            break
    return read


def _parse(parser: Parser, content: Content, told: Told) -> Parsed:
    """Parse a content; of a segment all times are the stream's, and silence is no failure."""
    part = content.attributes.part
    if content.kind in ("stream", "watch"):
        return _nothing(content)
    try:
        parsed = parser.parse(content, told)
    except InvalidInputError as error:
        # What a forget left is kept whatever can be read of it: it was taken once.
        silent = part is not None and isinstance(error, NothingToReadError)
        if silent or content.attributes.is_rest:
            return _nothing(content, str(error))
        raise
    if part is None or content.media_type == CUES_MEDIA_TYPE:
        return parsed  # cues tell the stream's time themselves; a file's clock begins with it
    return _within(_shifted(parsed, part.start_ms), part)


def _within(parsed: Parsed, part: Part) -> Parsed:
    """Return the same, nothing of it later than its segment ends: by that a stretch of time is forgotten.

    Raises ``InvalidInputError`` for what lasts longer than it was said to.
    """
    places = [p.place for p in parsed.passages if p.place is not None and p.place.kind == "time"]
    reached = max((place.last for place in places), default=0)
    begun = max((place.first for place in places), default=0)
    if places and (begun >= max(part.end_ms, part.start_ms + 1) or reached > part.end_ms + OVERRUN_MS):
        raise InvalidInputError(
            f"it goes on until {reached} ms, but the segment was said to end at {part.end_ms} ms"
        )

    def ended(place: Place | None) -> Place | None:
        if place is None or place.kind != "time" or place.last <= part.end_ms:
            return place
        return Place("time", place.first, max(place.first, part.end_ms))

    return replace(
        parsed, passages=tuple(replace(passage, place=ended(passage.place)) for passage in parsed.passages)
    )


def _nothing(content: Content, *warnings: str) -> Parsed:
    return Parsed(content.attributes.title, "", (Section(0, 0, ()),), (), warnings)


def _shifted(parsed: Parsed, milliseconds: int) -> Parsed:
    """Return the same, so much later."""

    def later(place: Place | None) -> Place | None:
        if place is None or place.kind != "time":
            return place
        return Place("time", place.first + milliseconds, place.last + milliseconds)

    passages = tuple(replace(passage, place=later(passage.place)) for passage in parsed.passages)
    times = parsed.times
    return replace(
        parsed,
        passages=passages,
        times=replace(
            times,
            start_ms=tuple(at + milliseconds for at in times.start_ms),
            end_ms=tuple(at + milliseconds for at in times.end_ms),
        ),
    )
