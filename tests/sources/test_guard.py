"""The guard around parsers: the same result, and nothing worse than a refusal, whatever a file does."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from memory.errors import InvalidInputError, LetheError, UnavailableError, UnsupportedMediaError
from memory.values import MESSAGES_MEDIA_TYPE, Attributes, Content, Parsed
from sources import guard
from sources.guard import GuardedParser
from sources.parse import SourceParser, guess_media_type
from sources.questions import (
    AUDIO,
    BODY,
    INVALID,
    PARSED,
    READY,
    UNSUPPORTED,
    Answer,
    read_media,
    read_parsed,
    read_refusal,
)
from tests.sources import probing
from tests.sources.checks import check

DATA = Path(__file__).parents[3] / "shared" / "data"
PROBING = (sys.executable, "-P", "-m", "tests.sources.probing")
GOOD = Content(
    "document", "text/plain", b"The ferry leaves at nine.\n\nIt returns at noon.", filename="ferry.txt"
)
MEBIBYTE = 1024**2


@pytest.fixture
def parser() -> Iterator[GuardedParser]:
    opened = GuardedParser()
    yield opened
    opened.close()


@pytest.fixture
def probe() -> Iterator[GuardedParser]:
    opened = GuardedParser(seconds=1, memory_bytes=512 * MEBIBYTE, command=PROBING)
    yield opened
    opened.close()


def ask(parser: GuardedParser, name: str, argument: object = None) -> str:
    return parser.parse(probe_content(name, argument)).text


def probe_content(name: str, argument: object = None) -> Content:
    return Content("document", "application/x-probe", json.dumps([name, argument]).encode())


def outcome(parser: GuardedParser | SourceParser, content: Content) -> Parsed | tuple[type, str]:
    try:
        return parser.parse(content)
    except LetheError as error:
        return type(error), str(error)


def lives(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds: float = 10.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


# The same result


def test_every_shared_document_is_read_as_without_the_guard(parser: GuardedParser) -> None:
    paths = [path for path in sorted(DATA.rglob("documents/*/*")) if path.is_file()]
    if not paths:
        pytest.skip("documents are not among the shared data here")
    plain = SourceParser()
    read = 0
    for path in paths:
        body = path.read_bytes()
        content = Content("document", guess_media_type(path.name, body[:4096]), body, filename=path.name)
        expected = outcome(plain, content)
        assert outcome(parser, content) == expected, path.name
        read += isinstance(expected, Parsed)
    assert read > 60


def test_whatever_makes_up_a_content_counts_as_without_the_guard(parser: GuardedParser) -> None:
    """Titles, names, times and character sets reach the parser; so do chats, and each kind of refusal."""
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    messages = b'[{"role": "user", "content": "Hi", "at": "2026-01-02T03:04:05+01:00", "id": 7}]'
    contents = [
        GOOD,
        Content(
            "memory",
            "text/plain; charset=latin-1",
            "Caf\xe9 at nine".encode("latin-1"),
            filename="\udcff.txt",
        ),
        Content(
            "document",
            "text/markdown",
            b"# A\n\nb\n\n## C\n\nd",
            Attributes(title="T\ud800", occurred_at=when),
        ),
        Content("memory", MESSAGES_MEDIA_TYPE, messages, Attributes(metadata={"a": object()})),  # type: ignore[dict-item]
        Content("memory", MESSAGES_MEDIA_TYPE, b'[{"role": 3}]'),
        Content("document", "text/html", b"<title>x</title><p>one<table><tr><td>1<td>2</table>"),
        Content("document", "application/pdf", b"%PDF-1.4 nothing"),
        Content("document", "application/x-unheard\ud800", b"x"),
        Content("document", "text/plain", b""),
        Content("document", "application/json", b'{"a": ['),
    ]
    plain = SourceParser()
    for content in contents:
        expected = outcome(plain, content)
        assert outcome(parser, content) == expected


def test_a_refusal_keeps_its_leaf_and_its_data(parser: GuardedParser, probe: GuardedParser) -> None:
    with pytest.raises(UnsupportedMediaError) as unsupported:
        parser.parse(Content("document", "image/x-xcf", b"x"))
    assert unsupported.value.media_type == "image/x-xcf"
    assert "text/plain" in unsupported.value.supported
    with pytest.raises(InvalidInputError) as invalid:
        ask(probe, "refuse", "no good")
    assert (invalid.value.what, invalid.value.where) == ("no good", "a place")


def test_no_string_of_the_result_holds_what_utf_8_or_a_database_cannot(probe: GuardedParser) -> None:
    content = probe_content("surrogates")

    parsed = probe.parse(Content(content.kind, content.media_type, content.body, filename="\udcff.txt"))

    assert (parsed.text, parsed.title) == ("a\ufffdb\ufffdc", "\ufffdt")
    assert parsed.sections[1].heading == parsed.passages[0].heading == ("\ufffd",)
    assert parsed.passages[0].messages == parsed.warnings == ("\ufffd",)
    assert "\ufffd" in parsed.passages[0].context
    check(parsed)


def test_threads_share_the_processes_and_get_their_own_results() -> None:
    parser = GuardedParser(processes=2)
    contents = [Content("document", "text/plain", f"Text {n}.\n\nMore of {n}.".encode()) for n in range(200)]
    try:
        with ThreadPoolExecutor(6) as threads:
            parsed = list(threads.map(parser.parse, contents))
        assert [each.text for each in parsed] == [content.body.decode() for content in contents]
        assert 1 <= len(parser.list_process_ids()) <= 2
    finally:
        parser.close()


def test_a_default_timeout_that_some_library_left_set_does_not_end_the_processes() -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(5.0)
    try:
        parser = GuardedParser()
        process = parser._start()
        time.sleep(0.2)  # It waits for a request by now, or has ended for want of one.
        assert lives(process.id)
        parser._put_back(process)
        assert parser.parse(GOOD) == SourceParser().parse(GOOD)
        assert parser.list_process_ids() == [process.id]
    finally:
        socket.setdefaulttimeout(before)
        parser.close()


def test_a_small_document_costs_little_more_than_without(parser: GuardedParser) -> None:
    parser.parse(GOOD)
    costs = []
    for _ in range(200):
        started = time.perf_counter()
        parser.parse(GOOD)
        costs.append(time.perf_counter() - started)
    assert statistics.median(costs) < 0.005
    assert len(parser.list_process_ids()) == 1


# Questions


def test_a_question_takes_parameters_and_its_answer_brings_bytes(probe: GuardedParser) -> None:
    told = {"spans": [[1, 2]], "words": "Caf\xe9 \u2026", "none": None}

    answer = probe._ask(probing.ECHO, GOOD, lambda answer: answer, kind="E", told=told)

    assert (answer.kind, json.loads(answer.told), answer.body) == (b"E", told, GOOD.body * 2)
    large = Content("document", "text/plain", bytes(3 * MEBIBYTE))
    assert len(probe._ask(probing.ECHO, large, lambda answer: answer.body, kind="E", told={})) == 6 * MEBIBYTE


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (PARSED, []),
        (PARSED, {"title": None}),
        (AUDIO, {"warnings": []}),
        (AUDIO, {"title": None, "warnings": 3}),
        (BODY, {}),
        (READY, {}),
        (INVALID, {}),
        (UNSUPPORTED, [1]),
    ],
)
def test_an_answer_to_another_question_or_of_another_form_is_none(kind: bytes, told: object) -> None:
    answer = Answer(kind, json.dumps(told).encode())
    for read in (read_parsed, read_media):
        with pytest.raises((KeyError, TypeError, ValueError)):
            if read_refusal(answer) is None:
                read(answer)


def test_who_answers_another_question_is_ended_and_the_content_refused(probe: GuardedParser) -> None:
    probe.parse(GOOD)
    first = probe.list_process_ids()
    with pytest.raises(InvalidInputError, match="reading it ended the process that did, twice"):
        probe._ask(probing.ECHO, GOOD, read_parsed, kind="a", told={"title": None, "warnings": []})
    assert not lives(first[0])
    assert probe.parse(GOOD).title == "ferry"


def test_a_kind_of_question_that_nobody_answers_is_a_fault_of_ours(probe: GuardedParser) -> None:
    with pytest.raises(InvalidInputError, match=r"KeyError in sources/guarded\.py"):
        probe._ask(b"!", GOOD, read_parsed)
    assert probe.parse(GOOD).title == "ferry"


# Limits


def test_time_memory_and_length_are_limited_and_the_next_file_is_read(probe: GuardedParser) -> None:
    late = "longer than (1 s of processor time|2 s); send it in parts"
    refusals = {
        ("spin", None): late,
        ("backtrack", None): late,
        ("sleep", 60): "longer than 2 s",
        ("allocate", 600): "more than 512 MiB of memory",
        ("write_much", 2 * probing.MAX_CHARACTERS): f"it holds {2 * probing.MAX_CHARACTERS} characters",
    }
    for (name, argument), reason in refusals.items():
        started = time.monotonic()
        with pytest.raises(InvalidInputError, match=reason):
            ask(probe, name, argument)
        assert time.monotonic() - started < 6, name
        assert probe.parse(GOOD).title == "ferry"


def test_a_parser_that_breaks_costs_one_file_and_says_where_not_what(probe: GuardedParser) -> None:
    secret = "a word of the content"
    refusals = {
        ("crash", None): "SIGSEGV",
        ("leave", 3): "exit status 3",
        ("recurse", None): "RecursionError in sources/probing.py, line",
        ("fail", secret): "KeyError in sources/probing.py, line",
    }
    for (name, argument), reason in refusals.items():
        with pytest.raises(InvalidInputError, match=reason) as refusal:
            ask(probe, name, argument)
        assert secret not in str(refusal.value)
        assert probe.parse(GOOD).title == "ferry"


TIMES_ANYWHERE = (
    '{"title": "t", "text": "a ferry", "warnings": [], "sections": [], "passages": [], "times": %s}'
)
TIMES_OF = '{"starts": %s, "ends": %s, "start_ms": %s, "end_ms": %s}'


@pytest.mark.parametrize(
    "answer",
    [
        "nothing",
        "{}",
        '{"title": 1, "text": 2, "sections": 3, "passages": 4, "warnings": 5}',
        '{"title": "t", "text": "t", "warnings": [], "passages": [],'
        ' "sections": [{"start": 0, "end": 9, "heading": [], "parent": null}]}',
        *(TIMES_ANYWHERE % times for times in ("[[0, 3]]", '"once"', "[]", "{}")),
        TIMES_ANYWHERE % TIMES_OF % ([0], [8], [0], [1]),
        TIMES_ANYWHERE % TIMES_OF % ([0, 2], [3, 4], [0, 1], [1, 2]),
        TIMES_ANYWHERE % TIMES_OF % ([0], [3], [2], [1]),
        TIMES_ANYWHERE % TIMES_OF % ([0], [3], [0.5], [1]),
        TIMES_ANYWHERE % TIMES_OF % ([0], [3], [0], []),
    ],
)
def test_a_process_that_was_taken_over_cannot_hand_in_nonsense(probe: GuardedParser, answer: str) -> None:
    with pytest.raises(InvalidInputError):
        ask(probe, "lie", answer)
    assert probe.parse(GOOD).title == "ferry"


def test_a_process_that_has_grown_or_read_much_is_replaced(
    probe: GuardedParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe.parse(GOOD)
    first = probe.list_process_ids()
    ask(probe, "keep", 200)
    probe.parse(GOOD)
    second = probe.list_process_ids()
    assert second != first and not lives(first[0])
    monkeypatch.setattr(guard, "MAX_DOCUMENTS", 2)
    probe.parse(GOOD)
    probe.parse(GOOD)
    assert probe.list_process_ids() != second


# Confinement


def test_a_parser_loads_nothing_that_computes(probe: GuardedParser) -> None:
    loaded = set(ask(probe, "report_modules").split())
    heavy = {"torch", "faiss", "transformers", "numpy", "sqlalchemy", "celery", "fastapi", "tantivy"}
    organs = {"embedding", "retrieval", "reader", "unlearning", "service", "workers", "api"}
    assert {"sources", "memory"} <= loaded
    assert not loaded & (heavy | organs)


def test_a_parser_sees_no_secret_of_the_environment(
    probe: GuardedParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LETHE_SECRET", "s3cret")
    told = json.loads(ask(probe, "report_environment"))
    assert set(told) <= {
        *("PATH", "LANG", "PYTHONHASHSEED", "PYTHONPATH", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"),
        "LC_CTYPE",  # of the interpreter's own making
    }


def test_a_parser_can_reach_nobody_start_nothing_and_write_nowhere(
    probe: GuardedParser, tmp_path: Path
) -> None:
    path = tmp_path / "there"
    path.write_text("before")
    told = json.loads(ask(probe, "attempt", str(path)))
    assert len(told) == 14
    assert set(told.values()) == {"PermissionError"}, told
    assert [each.name for each in tmp_path.iterdir()] == ["there"]
    assert path.read_text() == "before"


def test_native_code_has_no_network_either(probe: GuardedParser) -> None:
    allowed = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip("this kernel or container allows no network namespace")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert ask(probe, "connect_by_native_code", server.getsockname()[1]) == "Network is unreachable"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_the_kernel_holds_the_limits(parser: GuardedParser) -> None:
    parser.parse(GOOD)
    process = Path(f"/proc/{parser.list_process_ids()[0]}")
    limits = {
        line[:25].strip(): line[26:46].split()[0]
        for line in process.joinpath("limits").read_text().splitlines()
    }
    assert limits["Max address space"] == str(guard.MEMORY_BYTES)
    assert (limits["Max file size"], limits["Max core file size"], limits["Max processes"]) == ("0", "0", "0")
    assert limits["Max open files"] == "32"
    assert float(limits["Max cpu time"]) <= guard.SECONDS + 2
    status = process.joinpath("status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status


# Ends


def test_a_process_killed_while_idle_is_not_missed(parser: GuardedParser) -> None:
    expected = parser.parse(GOOD)
    os.kill(parser.list_process_ids()[0], signal.SIGKILL)
    assert parser.parse(GOOD) == expected


def test_a_file_whose_process_was_killed_is_read_once_more_and_then_refused() -> None:
    parser = GuardedParser(seconds=20, command=PROBING)
    try:
        with ThreadPoolExecutor(1) as threads:
            parser.parse(GOOD)
            once = threads.submit(ask, parser, "sleep", 0.5)
            time.sleep(0.2)
            os.kill(parser.list_process_ids()[0], signal.SIGKILL)
            assert once.result() == "awake"

            twice = threads.submit(ask, parser, "sleep", 30)
            killed: set[int] = set()
            while not twice.done():
                for process_id in set(parser.list_process_ids()) - killed:
                    time.sleep(1)  # until it reads
                    os.kill(process_id, signal.SIGKILL)
                    killed.add(process_id)
                time.sleep(0.01)
            assert len(killed) == 2
            with pytest.raises(InvalidInputError, match=r"twice \(SIGKILL, most likely for want of memory\)"):
                twice.result()
        assert parser.parse(GOOD).title == "ferry"
    finally:
        parser.close()


@pytest.mark.parametrize("deed", ["sleep", "backtrack"])
def test_processes_end_with_the_service_however_it_ends(deed: str) -> None:
    code = (
        "import sys, threading, time\n"
        "from tests.sources.test_guard import *\n"
        "parser = GuardedParser(command=PROBING)\n"
        f"threading.Thread(target=ask, args=(parser, {deed!r}, 60), daemon=True).start()\n"
        "wait_until(parser.list_process_ids)\n"
        "time.sleep(1)\n"
        "print(parser.list_process_ids()[0], flush=True)\n"
        "time.sleep(60)\n"
    )
    service = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        assert service.stdout is not None
        child = int(service.stdout.readline())
        assert lives(child)
    finally:
        service.kill()
        service.communicate()
    wait_until(lambda: not lives(child), seconds=2)


def test_processes_outlive_the_thread_that_needed_them_first(parser: GuardedParser) -> None:
    """The kernel's signal at a parent's death is tied to a thread; a worker thread that ends must not send it."""
    thread = threading.Thread(target=parser.parse, args=(GOOD,))
    thread.start()
    thread.join()
    first = parser.list_process_ids()
    time.sleep(0.2)
    parser.parse(GOOD)
    assert parser.list_process_ids() == first


def test_signals_to_stop_the_service_leave_its_readers_at_work(parser: GuardedParser) -> None:
    parser.parse(GOOD)
    (process_id,) = parser.list_process_ids()
    os.kill(process_id, signal.SIGTERM)
    os.kill(process_id, signal.SIGINT)
    parser.parse(GOOD)
    assert parser.list_process_ids() == [process_id]


def test_closing_ends_all_and_blames_no_file() -> None:
    """Not even one whose first process was killed, and whose second is ended by the closing."""
    parser = GuardedParser(seconds=20, command=PROBING)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, parser, "sleep", 20)
        wait_until(parser.list_process_ids)
        first = parser.list_process_ids()
        time.sleep(1)  # until it reads
        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: parser.list_process_ids() not in ([], first))
        (process_id,) = parser.list_process_ids()
        time.sleep(1)
        parser.close()
        with pytest.raises(UnavailableError):
            waiting.result()
    assert not lives(process_id)
    assert parser.list_process_ids() == []
    with pytest.raises(UnavailableError):
        parser.parse(GOOD)


@pytest.mark.parametrize("command", [("/nowhere/python",), (sys.executable, "-c", "raise SystemExit(3)")])
def test_that_no_process_can_be_had_is_no_fault_of_the_file(command: tuple[str, ...]) -> None:
    parser = GuardedParser(command=command)
    try:
        with pytest.raises(UnavailableError):
            parser.parse(GOOD)
        assert parser.list_process_ids() == []
    finally:
        parser.close()
