"""What is to be done so that the service holds what a folder holds: compared, not carried out.

What the service holds of a folder is told by the service alone: every document made from a folder carries, in
its metadata, which folder, path and digest it stands for. So there is no state beside the service that could
disagree with it, or that would keep names and digests of what was forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, cast

from api.folder_scan import Item, Scan, Stamp

if TYPE_CHECKING:
    from api.client import AttributeFields
    from api.replies import JobStub, SourceReply

METADATA_KEY = "lethe_sync"
_LONGEST_EXTERNAL_ID = 500


@dataclass(frozen=True, slots=True)
class Known:
    """A document the service holds of the folder. ``stamp`` is None where it must not be relied on."""

    id: str
    external_id: str
    path: str
    sha256: str
    stamp: Stamp | None
    attributes: AttributeFields
    job: JobStub | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One document to send: new, or the next version of a known one."""

    kind: Literal["new", "updated", "renamed"]
    item: Item
    external_id: str
    known: Known | None = None


@dataclass(slots=True)
class Plan:
    """All that is to be done. ``failed`` maps paths to why they cannot be compared."""

    steps: list[Step] = field(default_factory=list)
    unchanged: list[tuple[Item, Known]] = field(default_factory=list)
    gone: list[Known] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def folder_filter(folder: str) -> dict[str, Any]:
    """Return the filter that selects the documents of a folder."""
    return {f"metadata.{METADATA_KEY}.folder": folder}


def read_known(document: SourceReply) -> Known:
    """Return what a listed document stands for."""
    said = document["metadata"][METADATA_KEY]
    stamp = None if said["mtime_ns"] is None else Stamp(said["size"], int(said["mtime_ns"]))
    kept = {name: value for name, value in document["metadata"].items() if name != METADATA_KEY}
    attributes: dict[str, Any] = {"subjects": document["subjects"], "metadata": kept}
    for name in ("user_id", "agent_id", "run_id", "occurred_at"):
        attributes[name] = document[name]
    return Known(
        document["id"],
        document["external_id"] or "",
        said["path"],
        said["sha256"],
        stamp,
        cast("AttributeFields", attributes),
        document.get("job"),
    )


def make_fields(
    folder: str, step: Step, digest: str, stamp: Stamp | None, said: AttributeFields
) -> AttributeFields:
    """Return what is said about a document: what was said before, what is said now, what it stands for."""
    before = {} if step.known is None else cast("dict[str, Any]", step.known.attributes)
    fields: dict[str, Any] = {**before, **said, "external_id": step.external_id}
    fields["metadata"] = {
        **fields.get("metadata", {}),
        METADATA_KEY: {
            "folder": folder,
            "path": step.item.path,
            "sha256": digest,
            "size": None if stamp is None else stamp.size,
            # As text: JSON readers that know doubles only would change so large an integer.
            "mtime_ns": None if stamp is None else str(stamp.mtime_ns),
        },
    }
    return cast("AttributeFields", fields)


def make_plan(
    folder: str,
    scan: Scan,
    known: Iterable[Known],
    said: AttributeFields,
    digest: Callable[[Item], str] = Item.digest,
) -> Plan:
    """Compare what is there with what is known.

    A document follows its content: where it left one path and stands at another, that is a rename, even when
    something else stands at the old path by now. Only then does a path decide whose next version a file is.
    """
    plan = Plan()
    open_items = dict(sorted(scan.items.items()))
    left: list[Known] = []
    digests: dict[str, str] = {}
    for document in sorted(known, key=lambda one: (one.path, one.id)):
        item = open_items.get(document.path)
        if item is not None and _digest(item, document, digests, plan, digest) == document.sha256:
            del open_items[item.path]
            if _says_more(document, said):
                plan.steps.append(Step("updated", item, document.external_id, document))
            else:
                plan.unchanged.append((item, document))
        elif not scan.is_unread(document.path) and document.path not in plan.failed:
            left.append(document)
    for item in list(open_items.values()):
        if item.path not in plan.failed:
            _digest(item, None, digests, plan, digest)
        if item.path in plan.failed:
            del open_items[item.path]
    left = [one for one in left if one.path not in plan.failed]
    left = _match(plan, "renamed", left, open_items, lambda one: one.sha256, lambda item: digests[item.path])
    plan.gone = _match(plan, "updated", left, open_items, lambda one: one.path, lambda item: item.path)
    taken = {one.external_id for one in known}
    for item in open_items.values():
        external_id = _make_external_id(folder, item.path, taken)
        taken.add(external_id)
        plan.steps.append(Step("new", item, external_id))
    return plan


def _digest(
    item: Item, known: Known | None, digests: dict[str, str], plan: Plan, digest: Callable[[Item], str]
) -> str | None:
    """Return an item's digest, without reading it where size and time say that it is the one known."""
    if item.path not in digests and item.path not in plan.failed:
        if item.message is None and item.stamp.size == 0:
            plan.failed[item.path] = "the file is empty"
        elif item.message is None and known is not None and known.stamp == item.stamp:
            digests[item.path] = known.sha256
        else:
            try:
                digests[item.path] = digest(item)
            except OSError as error:
                plan.failed[item.path] = error.strerror or type(error).__name__
    return digests.get(item.path)


def _match(
    plan: Plan,
    kind: Literal["updated", "renamed"],
    left: Sequence[Known],
    items: dict[str, Item],
    key_of_known: Callable[[Known], str],
    key_of_item: Callable[[Item], str],
) -> list[Known]:
    """Plan the next version of each document whose key an item has; return the documents without one.

    Of several items with the key, one of the same file name is preferred.
    """
    by_key: dict[str, list[Item]] = {}
    for item in items.values():
        by_key.setdefault(key_of_item(item), []).append(item)
    rest: list[Known] = []
    for document in left:
        fitting = by_key.get(key_of_known(document))
        if not fitting:
            rest.append(document)
            continue
        name = document.path.rpartition("/")[2]
        item = next((one for one in fitting if one.path.rpartition("/")[2] == name), fitting[0])
        fitting.remove(item)
        del items[item.path]
        plan.steps.append(Step(kind, item, document.external_id, document))
    return rest


def _says_more(known: Known, said: AttributeFields) -> bool:
    """Say whether something said now differs from what was said before; what is not said stays."""
    before: Mapping[str, Any] = cast("Mapping[str, Any]", known.attributes)
    return any(value != before.get(name) for name, value in said.items())


def _make_external_id(folder: str, path: str, taken: set[str]) -> str:
    """Return a name that no other document of the folder has.

    It tells where a document was first found, and stays when the file moves: forgetting by it forgets
    every version.
    """
    name = f"{folder}/{path}"
    if len(name) > _LONGEST_EXTERNAL_ID - 10:
        name = f"{folder}/sha256-{sha256(path.encode()).hexdigest()}"
    number = 2
    chosen = name
    while chosen in taken:
        chosen = f"{name}~{number}"
        number += 1
    return chosen
