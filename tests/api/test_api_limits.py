"""Limits: how often, how large, how deep; each is refused with words."""

from __future__ import annotations

import json
import math
import re
import socket
import time

import httpx2
import pytest
from anyio.to_thread import current_default_thread_limiter
from doors import check_problem, client_of, serving
from fake_lethe import KEYS, FakeLethe
from hypothesis import given, settings
from hypothesis import strategies as st

import api.bodies
from api.client import LetheClient
from api.limits import MAX_BUCKETS, Buckets, Welcome, address_of, make_limits
from api.schemas import MAX_BATCH
from api.server import MAX_HEAD_BYTES
from memory.errors import UnavailableError

JSON = {"content-type": "application/json"}


class Ticker:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@settings(max_examples=400, deadline=None)
@given(
    per_second=st.floats(0.01, 1000),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 3), max_size=60),
)
def test_no_more_than_burst_and_rate_ever_pass_and_a_bucket_is_honest(per_second, burst, pauses):
    """In any stretch of time; and whoever waits as long as it says gets its token."""
    clock = Ticker()
    buckets = Buckets(per_second, burst, now=clock)
    passed = []
    for pause in pauses:
        clock.now += pause
        look = buckets.take("k", only_look=True)
        taken = buckets.take("k")
        assert look.allowed == taken.allowed == (look.left >= 1)
        if taken.allowed:
            passed.append(clock.now)
            assert taken.left == look.left - 1
        else:
            clock.now += taken.retry_in_seconds
            assert buckets.take("k").allowed
            passed.append(clock.now)
        for start, since in enumerate(passed):
            assert len(passed) - start <= burst + (clock.now - since) * per_second + 1e-3
    clock.now += buckets.window_seconds
    assert buckets.take("k", only_look=True).left == burst


def test_buckets_are_each_names_own_and_bounded_in_number():
    buckets = Buckets(1, 1, now=Ticker())
    assert buckets.take("first").allowed
    assert not buckets.take("first").allowed
    for number in range(MAX_BUCKETS):
        assert buckets.take(str(number)).allowed
    assert len(buckets._full_at) == MAX_BUCKETS
    assert buckets.take("first").allowed, "the one longest unused was forgotten"


def limited(**rates):
    clock = Ticker()
    return clock, make_limits(now=clock, **rates)


@pytest.mark.parametrize(
    ("use", "ask"),
    [
        ("read", lambda http: http.get("/v1/stats")),
        ("write", lambda http: http.post("/v1/memories", json={"text": "tide"})),
        ("answer", lambda http: http.post("/v1/answer", json={"query": "tide"})),
    ],
)
def test_each_use_has_its_own_rate_per_key_and_says_where_it_stands(use, ask):
    """Fields of draft-ietf-httpapi-ratelimit-headers; 429 with Retry-After when it is used up."""
    clock, limits = limited(**{f"{use}_per_second": 0.5}, burst_seconds=4)
    lethe = FakeLethe()
    http = client_of(lethe, limits=limits)

    replies = [ask(http) for _ in range(3)]

    assert [reply.status_code < 400 for reply in replies] == [True, True, False]
    assert [reply.headers["ratelimit"] for reply in replies] == [
        f'"{use}";r=1;t=2',
        f'"{use}";r=0;t=4',
        f'"{use}";r=0;t=4',
    ]
    assert {reply.headers["ratelimit-policy"] for reply in replies} == {f'"{use}";q=2;w=4'}
    problem = check_problem(replies[2], 429)
    assert problem["type"] == "urn:lethe:problem:too-many-requests"
    assert problem["detail"] == f"this key may do 2 {use} requests in 4 s; try again in 2 s"
    assert replies[2].headers["retry-after"] == "2"

    assert ask(client_of(lethe, "other-key", limits=limits)).status_code < 400, "another key's bucket"
    others = [path for path in ("/v1/jobs", "/v1/rebuild") if (use == "read") != (path == "/v1/jobs")]
    for path in others:
        other = http.request("GET" if path == "/v1/jobs" else "POST", path)
        assert (other.status_code == 429) == (use == "write" and path == "/v1/rebuild")
    clock.now += 2
    assert ask(http).status_code < 400


def test_without_rates_nothing_is_said_and_nothing_refused(http):
    replies = [http.get("/v1/stats") for _ in range(60)]
    assert {reply.status_code for reply in replies} == {200}
    assert "ratelimit" not in replies[0].headers


def test_unknown_keys_are_refused_before_the_lookup_and_known_ones_are_not_locked_out(monkeypatch):
    """An address that guesses is told to wait; keys seen to work from it go on, until they are revoked."""
    clock, limits = limited(failures_per_minute=3)
    lethe = FakeLethe()
    good, bad = client_of(lethe, limits=limits), client_of(lethe, "nobody", limits=limits)
    late = client_of(lethe, "read-key", limits=limits)
    assert good.get("/v1/stats").status_code == 200

    assert [bad.get("/v1/stats").status_code for _ in range(4)] == [401, 401, 401, 429]
    looked = []
    authenticate = lethe.authenticate
    monkeypatch.setattr(lethe, "authenticate", lambda key: (looked.append(key), authenticate(key))[1])
    refused = bad.get("/v1/stats")
    problem = check_problem(refused, 429)
    assert "nobody" not in problem["detail"].replace("nobody knows", "")
    assert refused.headers["retry-after"] == "20"
    assert late.get("/v1/stats").status_code == 429
    assert good.get("/v1/stats").status_code == 200
    assert looked == ["admin-key"]

    clock.now += 20
    assert late.get("/v1/stats").status_code == 200
    assert late.get("/v1/stats").status_code == 200
    assert client_of(lethe, None, limits=limits).get("/v1/stats").status_code == 401, "no key is no guess"


def test_a_key_that_works_no_more_is_not_welcome_any_longer(monkeypatch):
    _, limits = limited(failures_per_minute=2)
    lethe = FakeLethe()
    http = client_of(lethe, "read-key", limits=limits)
    assert http.get("/v1/stats").status_code == 200
    monkeypatch.delitem(KEYS, "read-key")

    assert [http.get("/v1/stats").status_code for _ in range(4)] == [401, 401, 429, 429]


def test_answers_that_hold_threads_for_long_leave_as_many_for_all_else():
    with client_of(FakeLethe(), readings=7) as busy, client_of(FakeLethe()) as plain:
        assert _threads(busy) - _threads(plain) == 7


def _threads(client):
    return client.portal.call(lambda: current_default_thread_limiter().total_tokens)


def test_what_is_remembered_of_keys_is_their_digests():
    welcome = Welcome()
    welcome.add("secret")
    assert "secret" in welcome
    assert "secret" not in repr(vars(welcome))


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("2001:db8:1:2:3::4", 5), "2001:db8:1:2::/64"),
        (("::ffff:192.0.2.7", 5), "192.0.2.7"),
        (("testclient", 5), "testclient"),
        (None, ""),
    ],
)
def test_failures_are_counted_by_address(client, address):
    assert address_of({"type": "http", "client": client}) == address


@pytest.mark.parametrize(("trusted", "told"), [("", "127.0.0.1"), ("127.0.0.1", "192.0.2.7")])
def test_a_forwarded_address_is_believed_of_trusted_proxies_alone(monkeypatch, trusted, told):
    seen = []
    monkeypatch.setattr("api.auth.address_of", lambda scope: (seen.append(address_of(scope)), "")[1])
    headers = {"authorization": "Bearer read-key", "x-forwarded-for": "203.0.113.9, 192.0.2.7"}
    with serving(FakeLethe(), trusted_proxies=trusted) as port:
        assert httpx2.get(f"http://127.0.0.1:{port}/v1/stats", headers=headers).status_code == 200
    assert seen == [told]


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET / HTTP/1.1\r\n", b"x-a: " + b"a" * 1000 + b"\r\n"),
        (b"GET / HTTP/1.1\r\nx-a: ", b"a" * 1000),
        (b"GET /", b"a" * 1000),
    ],
    ids=["many headers", "one header", "a path"],
)
def test_a_head_without_end_is_cut_off(port, start, piece):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(20)
        connection.sendall(start)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(100_000):
                connection.sendall(piece)


def test_a_head_too_large_is_told_so(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(20)
        connection.sendall(b"GET / HTTP/1.1\r\nx-a: ")
        time.sleep(0.3)  # what comes with the first bytes is not counted
        connection.sendall(b"a" * (MAX_HEAD_BYTES + 1))
        reply = connection.recv(4096)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large")
    assert json.loads(body)["type"] == "urn:lethe:problem:head-too-large"


def test_large_bodies_do_not_count_as_heads(port):
    """Two requests on one connection, the first with a body far larger than a head may be."""
    with LetheClient(f"http://127.0.0.1:{port}", "admin-key") as client:
        client.remember_document("tide " * 100_000)
        assert client.recall("tide")["hits"]


def form(*parts: tuple[str, str]) -> tuple[bytes, dict[str, str]]:
    body = b"".join(
        f"--x\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n".encode()
        for head, content in parts
    )
    return body + b"--x--\r\n", {"content-type": "multipart/form-data; boundary=x"}


FILE = ('name="file"; filename="a.txt"', "text")


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([FILE, *[('name="subjects"', "s")] * 201], "fields"),
        ([FILE, FILE], "files"),
        ([FILE, ('name="title"', "t" * (1 << 20) + "t")], "1024KB"),
        ([FILE, *[('name="subjects"', f"s{n}") for n in range(200)], ('name="title"', "t")], "fields"),
    ],
    ids=["fields", "files", "a field", "fields of two kinds"],
)
def test_a_form_over_its_limits_is_told_which(http, parts, told):
    body, headers = form(*parts)
    problem = check_problem(http.post("/v1/documents", content=body, headers=headers), 422)
    assert told in problem["detail"]
    assert re.search(r"\d", problem["detail"]), "the limit is named"


def chunked(body: bytes):
    for start in range(0, len(body), 300):
        yield body[start : start + 300]


def test_size_is_enforced_however_a_body_comes(lethe):
    """Declared, in chunks, as a file, as a batch, as lines: at the limit taken, one byte over refused."""
    text = json.dumps({"text": "t" * 2000}).encode()
    batch, lines = b"[" + text + b"]", text + b"\n" + text + b"\n"
    upload, multipart = form(('name="file"; filename="a.txt"', "t" * 2000))
    for path, body, headers in (
        ("/v1/documents", text, JSON),
        ("/v1/documents", upload, multipart),
        ("/v1/documents/batch", batch, JSON),
        ("/v1/documents/batch", lines, {"content-type": "application/x-ndjson"}),
    ):
        for send in (lambda body: body, chunked):
            taken = client_of(lethe, max_body_bytes=len(body))
            assert taken.post(path, content=send(body), headers=headers).status_code == 202
            refused = client_of(lethe, max_body_bytes=len(body) - 1)
            problem = check_problem(refused.post(path, content=send(body), headers=headers), 413)
            assert problem["detail"] == f"the body is larger than {len(body) - 1} bytes"


def test_a_batch_has_a_count(http, monkeypatch):
    many = [{"text": "t"}] * (MAX_BATCH + 1)
    as_list = check_problem(http.post("/v1/documents/batch", json=many), 422)
    assert str(MAX_BATCH) in as_list["detail"]

    parsed = []
    parse = api.bodies.parse_json
    monkeypatch.setattr(api.bodies, "parse_json", lambda line: (parsed.append(1), parse(line))[1])
    lines = b'{"text": "t"}\n' * (2 * MAX_BATCH)
    headers = {"content-type": "application/x-ndjson"}
    as_lines = check_problem(http.post("/v1/documents/batch", content=lines, headers=headers), 422)
    assert str(MAX_BATCH) in as_lines["detail"]
    assert len(parsed) == MAX_BATCH, "what is beyond is not read"


def nested(depth: int):
    return {"a": nested(depth - 1)} if depth else 1


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/v1/documents", {"text": "t", "metadata": nested(70)}, 400, "deeper than 64"),
        ("/v1/documents", {"text": "t", "metadata": {str(n): n for n in range(201)}}, 422, "200"),
        ("/v1/documents", {"text": "t", "metadata": {"a": "v" * 65_536}}, 422, "65536 bytes"),
        ("/v1/documents", {"text": "t", "metadata": {"k" * 501: 1}}, 422, "500"),
        ("/v1/documents", {"text": "t", "subjects": ["s"] * 201}, 422, "200"),
        ("/v1/memories", {"messages": [{"role": "user", "content": "c"}] * 10_001}, 422, "10000"),
        ("/v1/recall", {"query": "q" * 10_001}, 422, "10000"),
        ("/v1/recall", {"query": "q", "filter": {"a": "v" * 65_536}}, 422, "65536 bytes"),
        ("/v1/answer", {"query": "q" * 10_001}, 422, "10000"),
        ("/v1/forget", {"scope": {"ids": ["i"] * 10_001}, "mode": "preview"}, 422, "10000"),
    ],
)
def test_what_is_too_long_or_too_deep_is_told_its_limit(http, path, body, status, told):
    problem = check_problem(http.post(path, json=body), status)
    assert told in json.dumps(problem)


def test_the_client_waits_as_it_was_told_and_sends_again(monkeypatch):
    """What came too often was not begun, so even what changes something is sent again."""
    clock, limits = limited(write_per_second=1, burst_seconds=1)
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.now += seconds

    monkeypatch.setattr("api.client.time.sleep", sleep)
    lethe = FakeLethe()
    with (
        serving(lethe, limits=limits) as port,
        LetheClient(f"http://127.0.0.1:{port}", "admin-key") as client,
    ):
        for number in range(3):
            client.remember_text(f"tide {number}")
        assert len(lethe.contents) == 3
        assert [math.ceil(pause) for pause in pauses if pause >= 1] == [1, 1]
        monkeypatch.setattr("api.client.time.sleep", lambda seconds: None)
        with pytest.raises(UnavailableError, match="try again"):
            client.remember_text("tide 4")
