"""Watches and the events of streams over TCP: told while they happen, gone on with, forgotten before they leave."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager

import orjson
import pytest
from doors import serving_app
from real import real_service, tiny_encoder

import api.client_watches
import api.stream_events
from api.app import WATCHING_THREADS, create_app
from api.client import LetheClient
from api.stream_events import FollowedStream
from embedding.encoder import TextEncoder
from embedding.models import ModelStore, default_cache
from memory.errors import ForgottenError, InvalidInputError, NotFoundError, UnavailableError
from service import watches as service_watches
from service.stream_events import Look, Mark, StreamEvents
from service.views import Scope
from tests.service.harness import TENANT

SOON = 5.0


@pytest.fixture
def service(tmp_path):
    with real_service(tmp_path / "data", tiny_encoder(tmp_path / "model")) as opened:
        yield opened


@contextmanager
def calling(service, *roles):
    """Yield a client over TCP; its server outlives neither the block nor a listener."""
    with (
        serving_app(service.app, lifespan="off") as port,
        LetheClient(f"http://127.0.0.1:{port}", service.key(*roles)) as client,
    ):
        try:
            yield client
        finally:
            service.app.state.drain()
            service.lethe._stopping = True


@pytest.fixture
def client(service):
    with calling(service, "read", "write", "forget") as opened:
        yield opened


@pytest.fixture
def watches(client):
    return client.watches


class Listener:
    """Follows a stream in a thread, and keeps all that it hears."""

    def __init__(self, client, stream_id, after=None):
        self.heard: list[tuple[str, str, dict]] = []
        self.lines: list[str] = []
        self.client, self.path = client, f"/v1/streams/{stream_id}/events"
        self.headers = {} if after is None else {"last-event-id": after}
        self.leave = threading.Event()
        self.thread = threading.Thread(target=self._listen)
        self.thread.start()

    def _listen(self):
        with self.client._http.stream("GET", self.path, headers=self.headers, timeout=SOON) as response:
            self.status = response.status_code
            event: dict[str, str] = {}
            for line in response.iter_lines():
                self.lines.append(line)
                if self.leave.is_set():
                    return
                if line:
                    name, _, value = line.partition(": ")
                    event[name] = value
                elif "event" in event:
                    self.heard.append((event.get("id", ""), event["event"], orjson.loads(event["data"])))
                    event = {}

    def wait(self, count):
        until(lambda: len(self.heard) >= count)
        return self.heard

    def whole(self):
        self.thread.join(SOON)
        assert not self.thread.is_alive(), "the reply has not ended"
        return self.heard


def until(holds):
    deadline = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def open_stream(client, **said):
    return client._send("POST", "/v1/streams", json={"kind": "text", **said})["id"]


def append(client, stream_id, number, *texts):
    cues = [
        {"start_ms": 1000 * number + 100 * at, "end_ms": 1000 * number + 100 * at + 90, "text": text}
        for at, text in enumerate(texts)
    ]
    path = f"/v1/streams/{stream_id}/segments"
    return client._send("POST", path, json={"number": number, "cues": cues}, wait=5)["id"]


def close(client, stream_id):
    client._send("POST", f"/v1/streams/{stream_id}/close")


def told(listener):
    return [(kind, data.get("number")) for _, kind, data in listener]


def test_what_becomes_searchable_and_what_matches_is_told_while_it_happens(client, watches):
    stream_id = open_stream(client)
    watch = watches.create("glass tower", name="landmark", threshold=1)
    append(client, stream_id, 0, "The river is calm.")
    listener = Listener(client, stream_id)
    listener.wait(1)

    source_id = append(client, stream_id, 1, "A tower made of glass is in the garden.")
    heard = listener.wait(3)
    close(client, stream_id)

    assert told(listener.whole()) == [("segment", 0), ("segment", 1), ("match", 1), ("closed", None)]
    assert heard[1][2] == {
        "number": 1,
        "start_ms": 1000,
        "end_ms": 1090,
        "source_id": source_id,
        "passages": 1,
    }
    match = heard[2][2]
    assert (match["watch_id"], match["source_id"]) == (watch["id"], source_id)
    assert (match["start_ms"], match["end_ms"]) == (1000, 1090)
    assert match["passage_id"].endswith(".0")
    assert -1 <= match["score"] < 1
    (hit,) = watches.get(watch["id"])["matches"]
    assert hit["passage_id"] == match["passage_id"]
    assert hit["score"] == pytest.approx(match["score"], abs=1e-6)


def test_a_listener_goes_on_behind_any_event_without_loss_or_repeats(service, client, watches):
    stream_id = open_stream(client)
    for query in ("glass", "tower"):
        watches.create(query, threshold=1)
    for number in range(3):
        append(client, stream_id, number, f"The glass tower {number}.", "A letter.")
    client.remember_text("What is no part of the stream, of glass.", wait=5)
    close(client, stream_id)
    whole = Listener(client, stream_id).whole()
    assert told(whole) == [e for n in range(3) for e in (("segment", n), ("match", n), ("match", n))] + [
        ("closed", None)
    ]
    assert len({id for id, _, _ in whole}) == len(whole)

    for at, (id, _, _) in enumerate(whole[:-1]):
        assert Listener(client, stream_id, id).whole() == whole[at + 1 :]
    ended = Listener(client, stream_id, whole[-1][0])
    assert (ended.whole(), ended.status) == ([], 204)
    with pytest.raises(InvalidInputError):
        list(api.client_watches.iter_events(client, stream_id, after="yesterday"))


@pytest.mark.parametrize("first", ["0", "d", "f"])
def test_who_heard_the_end_is_told_to_stay_away_whatever_the_id_of_a_watch(service, client, watches, first):
    """The end has the revision of the last segment: what matched that stands before it."""
    stream_id = open_stream(client)
    service.house.ids.given = [first + 31 * "a"]
    assert watches.create("tower", threshold=1)["id"] == first + 31 * "a"
    append(client, stream_id, 0, "The tower.")
    close(client, stream_id)
    whole = Listener(client, stream_id).whole()
    assert told(whole) == [("segment", 0), ("match", 0), ("closed", None)]
    assert whole[0][0] == whole[2][0].removesuffix(".closed")

    ended = Listener(client, stream_id, whole[2][0])

    assert (ended.whole(), ended.status) == ([], 204)
    assert list(api.client_watches.iter_events(client, stream_id, after=whole[2][0])) == []


def test_another_process_goes_on_where_one_left_off(service):
    """What it needs to know is in the database: nothing of the first process is left."""
    with calling(service, "read", "write", "forget") as client:
        stream_id = open_stream(client)
        watch = client.watches.create("tower", threshold=1)
        for number in range(2):
            append(client, stream_id, number, f"The tower {number}.")
        close(client, stream_id)
        whole = Listener(client, stream_id).whole()
    service.house.restart()
    service.lethe = service.house.lethe
    service.access, service.app = service.lethe.access, create_app(service.lethe)
    with calling(service, "read") as client:
        assert Listener(client, stream_id, whole[1][0]).whole() == whole[2:]
        assert len(client.watches.get(watch["id"])["matches"]) == 2


@pytest.mark.parametrize("what", ["segment", "watch", "stream"])
def test_what_is_forgotten_between_looking_and_telling_does_not_leave(
    service, client, watches, monkeypatch, what
):
    stream_id = open_stream(client)
    watch = watches.create("adeyemi", threshold=1)
    listener = Listener(client, stream_id)
    until(lambda: listener.lines)
    look = StreamEvents.look

    def late(self, tenant_id, of, after):
        found = look(self, tenant_id, of, after)
        if found.events:
            monkeypatch.setattr(StreamEvents, "look", look)
            forgotten = {"segment": ids[0] if ids else None, "watch": watch["id"], "stream": stream_id}[what]
            assert forgotten is not None
            service.lethe.forget(TENANT, Scope(ids=(forgotten,)), preview=False)
        return found

    ids: list[str] = []
    append_ready = threading.Event()

    def waiting(self, tenant_id, of, after):
        append_ready.wait(SOON)
        return late(self, tenant_id, of, after)

    monkeypatch.setattr(StreamEvents, "look", waiting)
    ids.append(append(client, stream_id, 0, "Adeyemi is ill."))
    append_ready.set()
    if what == "stream":
        until(lambda: "event: error" in listener.lines)
        assert not any("Adeyemi" in line or ids[0] in line for line in listener.lines)
        return
    append(client, stream_id, 1, "The anchor is up.")
    close(client, stream_id)

    heard = listener.whole()
    left = {"segment": [("segment", 1)], "watch": [("segment", 0), ("segment", 1)]}[what]
    assert told(heard) == [*left, ("closed", None)]
    assert not any(watch["id"] in line for line in listener.lines)


def test_a_forget_waits_for_an_event_that_is_being_handed_over(service, client, monkeypatch):
    """It was checked before the forget: so it leaves before the acknowledgement, not after."""
    stream_id = open_stream(client)
    gone = append(client, stream_id, 0, "Adeyemi is ill.")
    is_free, checked, go = StreamEvents.is_free, threading.Event(), threading.Event()

    def slow(self, tenant_id, event):
        free = is_free(self, tenant_id, event)
        checked.set()
        go.wait(SOON)
        return free

    monkeypatch.setattr(StreamEvents, "is_free", slow)
    listener = Listener(client, stream_id)
    assert checked.wait(SOON)
    scope = Scope(ids=(gone,))
    forgetting = threading.Thread(target=lambda: service.lethe.forget(TENANT, scope, preview=False))
    forgetting.start()
    forgetting.join(0.2)
    assert forgetting.is_alive()
    go.set()
    forgetting.join(SOON)
    assert not forgetting.is_alive()
    listener.wait(1)
    close(client, stream_id)
    assert told(listener.whole()) == [("segment", 0), ("closed", None)]


def test_what_was_forgotten_is_not_told_to_who_comes_later(client, watches):
    stream_id = open_stream(client)
    watch = watches.create("adeyemi", subjects=["adeyemi"], threshold=1)
    gone = append(client, stream_id, 0, "Adeyemi is ill.")
    append(client, stream_id, 1, "Adeyemi is well.")
    client.forget_document(gone, wait=5)
    close(client, stream_id)
    assert told(Listener(client, stream_id).whole()) == [("segment", 1), ("match", 1), ("closed", None)]

    client.forget({"subjects": ["adeyemi"]}, wait=5)

    assert told(Listener(client, stream_id).whole()) == [("segment", 1), ("closed", None)]
    with pytest.raises(ForgottenError):
        watches.get(watch["id"])
    assert list(watches.iter_all()) == []


def test_what_is_left_of_a_segment_is_told_of_anew_and_the_streams_watches_stay(client, watches):
    stream_id = open_stream(client)
    watches.create("anchor", stream_id=stream_id, threshold=1)
    path = f"/v1/streams/{stream_id}/segments"
    cues = [
        {"start_ms": 0, "end_ms": 900, "text": "Adeyemi is ill."},
        {"start_ms": 1000, "end_ms": 1900, "text": "The anchor is up."},
    ]
    client._send("POST", path, json={"number": 0, "cues": cues}, wait=5)
    listener = Listener(client, stream_id)
    before = listener.wait(2)[1]

    client.forget({"ids": [stream_id], "stream_range": {"start_ms": 0, "end_ms": 950}}, wait=5)

    after = listener.wait(4)[3]
    close(client, stream_id)
    heard = listener.whole()
    assert told(heard) == [("segment", 0), ("match", 0)] * 2 + [("closed", None)]
    assert after[2]["passage_id"] != before[2]["passage_id"]
    assert told(Listener(client, stream_id).whole()) == [("segment", 0), ("match", 0), ("closed", None)]


def test_who_waits_holds_no_thread_and_no_fence_and_is_let_go_when_the_service_stops(
    service, client, monkeypatch
):
    monkeypatch.setattr(api.stream_events, "HEARTBEAT_SECONDS", 0.2)
    follow, followed = FollowedStream._follow, []

    async def counted(self, *told):
        followed.append(self)
        try:
            return await follow(self, *told)
        finally:
            followed.remove(self)

    monkeypatch.setattr(FollowedStream, "_follow", counted)
    stream_id = open_stream(client)
    listeners = [Listener(client, stream_id) for _ in range(3)]
    until(lambda: all(":" in listener.lines for listener in listeners))

    assert service.app.state.fenced_threads.borrowed_tokens == 0
    with service.lethe.kernel.fence.exclusive(TENANT, timeout_seconds=0.5):
        pass  # alone at once
    assert len(followed) == 3
    listeners[0].leave.set()
    listeners[0].whole()
    until(lambda: len(followed) == 2)
    service.app.state.drain()
    for listener in listeners[1:]:
        assert listener.whole() == []
    until(lambda: not followed)


def test_a_key_that_is_revoked_hears_no_more(service, client, monkeypatch):
    monkeypatch.setattr(api.stream_events, "HEARTBEAT_SECONDS", 0.1)
    stream_id = open_stream(client)
    issued = service.access.issue(TENANT, ("read",), name="listener")
    with LetheClient(str(client._url), issued.key) as other:
        listener = Listener(other, stream_id)
        until(lambda: ":" in listener.lines)
        service.access.revoke(TENANT, issued.view.id)
        assert listener.whole() == []


@pytest.mark.parametrize("at_once", [1, 10_000])
def test_a_key_that_is_revoked_hears_no_more_however_much_there_is_to_tell(
    service, client, monkeypatch, at_once
):
    """No silence comes, and the key is looked at all the same; within what was found at once, too."""
    monkeypatch.setattr(api.stream_events, "HEARTBEAT_SECONDS", 0.3)
    stream_id = open_stream(client)
    append(client, stream_id, 0, "Aye.")
    (event,) = service.lethe.stream_events.look(TENANT, stream_id, Mark()).events
    monkeypatch.setattr(StreamEvents, "look", lambda *_: Look((event,) * at_once))
    issued = service.access.issue(TENANT, ("read",), name="listener")
    with LetheClient(str(client._url), issued.key) as other:
        listener = Listener(other, stream_id)
        listener.wait(3)
        service.access.revoke(TENANT, issued.view.id)
        assert set(told(listener.whole())) == {("segment", 0)}


def test_looking_into_streams_holds_up_nothing_else(service, client, monkeypatch):
    service.app.state.polling_threads.total_tokens = WATCHING_THREADS
    stream_id = open_stream(client)
    look, looking, go = StreamEvents.look, [], threading.Event()

    def slow(self, *told):
        looking.append(told)
        go.wait(2 * SOON)
        return look(self, *told)

    monkeypatch.setattr(StreamEvents, "look", slow)
    listeners = [Listener(client, stream_id) for _ in range(WATCHING_THREADS + 2)]
    try:
        until(lambda: len(looking) == WATCHING_THREADS)
        assert client._http.get("/readyz", timeout=2).status_code == 200
        assert client.remember_text("A tower of glass.", wait=4)["job"]["status"] == "done"
        assert len(looking) == WATCHING_THREADS
    finally:
        go.set()
        service.app.state.drain()
    for listener in listeners:
        assert listener.whole() == []


def test_only_so_many_listen_and_a_place_is_given_back(service, client):
    places = service.app.state.listeners
    places.total_tokens = 2
    stream_id, over = open_stream(client), open_stream(client)
    close(client, over)
    path = f"/v1/streams/{stream_id}/events"
    ((end, _, _),) = Listener(client, over).whole()
    first, second = (Listener(client, stream_id) for _ in range(2))
    until(lambda: first.lines and second.lines)

    refused = client._http.get(path)

    assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
    assert refused.json()["type"] == "urn:lethe:problem:busy"
    first.leave.set()
    append(client, stream_id, 0, "Aye.")
    first.whole()
    until(lambda: places.borrowed_tokens == 1)
    assert client._http.get("/v1/streams/nowhere/events").status_code == 404
    ended = Listener(client, over, end)
    assert (ended.whole(), ended.status) == ([], 204)
    until(lambda: places.borrowed_tokens == 1)
    third = Listener(client, stream_id)
    third.wait(1)
    close(client, stream_id)
    assert told(second.whole()) == told(third.whole()) == [("segment", 0), ("closed", None)]
    until(lambda: places.borrowed_tokens == 0)


def test_a_client_goes_on_by_itself_when_the_connection_breaks(client, monkeypatch):
    """The service ended the reply after one event; the next connection begins behind it."""
    monkeypatch.setattr(api.client_watches, "PAUSE_SECONDS", 0.0)
    stream_id = open_stream(client)
    for number in range(3):
        append(client, stream_id, number, "Aye.")
    close(client, stream_id)
    listen, begun = api.client_watches._listen, []

    def broken(client, stream_id, after):
        begun.append(after)
        for at, one in enumerate(listen(client, stream_id, after)):
            if at == 1 and len(begun) < 3:
                raise UnavailableError("the connection broke")
            yield one

    monkeypatch.setattr(api.client_watches, "_listen", broken)
    heard = list(api.client_watches.iter_events(client, stream_id))
    assert told(heard) == [("segment", 0), ("segment", 1), ("segment", 2), ("closed", None)]
    assert begun == [None, heard[0][0], heard[1][0]]
    assert list(api.client_watches.iter_events(client, stream_id, after=heard[-1][0])) == []
    with pytest.raises(NotFoundError):
        list(api.client_watches.iter_events(client, "nowhere"))


def test_a_watch_is_held_against_what_comes_and_against_what_it_is_for(service, client, watches):
    clock = service.house.clock
    client.remember_text("A tower of glass, before.", wait=5)
    clock.now_us += 1_000_000
    quay = open_stream(client, metadata={"quay": 2})
    plain = watches.create("towers of glass", threshold=1)
    filtered = watches.create("glass", filter={"metadata.quay": 2}, threshold=1)
    limited = watches.create("glass", stream_id=quay, threshold=1)
    near = watches.create("what is near in every way", threshold=0)
    clock.now_us += 1_000_000
    client.remember_text("A tower of glass, after.", external_id="after", wait=5)
    clock.now_us += 1_000_000
    append(client, quay, 0, "The glass is gone.", "A tower of glass, at the quay.")

    def matches(watch):
        return [hit["text"] for hit in watches.get(watch["id"])["matches"]]

    at_the_quay = "The glass is gone.\nA tower of glass, at the quay."
    assert matches(plain) == [at_the_quay, "A tower of glass, after."]
    assert matches(filtered) == [at_the_quay]
    assert matches(limited) == [at_the_quay]
    assert set(matches(near)) <= {at_the_quay, "A tower of glass, after."}
    clock.now_us += 1_000_000
    client.remember_text("A tower of stone now.", external_id="after", wait=5)
    assert matches(plain) == [at_the_quay]
    assert [one["text"] for one in watches.get(plain["id"], limit=1)["matches"]] == [at_the_quay]


def test_watches_are_listed_and_found_by_no_recall(service, client, watches):
    ids = []
    for at in range(3):
        ids.append(watches.create(f"zanzibar {at}", name=f"n{at}", subjects=["s"], threshold=0.7)["id"])
        service.house.clock.now_us += 1_000_000
    listed = list(watches.iter_all(page_size=2))
    assert [one["id"] for one in listed] == ids[::-1]
    assert listed[0] == {
        "id": ids[2], "query": "zanzibar 2", "name": "n2", "filter": None, "stream_id": None,
        "threshold": 0.7, "subjects": ["s"], "created_at": "2025-06-15T15:06:42Z",
    }  # fmt: skip
    assert client.recall("zanzibar")["hits"] == []
    assert client.list_documents() == client.list_memories() == []


def test_a_forgotten_watch_leaves_nothing(service, client, watches):
    client.remember_text("A tower of glass.", wait=5)
    service.lethe.indexes.rewrite(TENANT)  # as a forget leaves it
    before = service.house.digest()
    watch = watches.create("tower of glass", threshold=1)
    assert len(watches.get(watch["id"])["matches"]) == 1
    assert service.house.digest() != before

    done = watches.forget(watch["id"], wait=5)

    assert done["state"] == "certified"
    assert service.house.digest() == before
    assert watches.forget(watch["id"], wait=5)["state"] == "certified"
    with pytest.raises(NotFoundError):
        watches.forget("nowhere")


def test_what_is_kept_of_a_watch_in_memory_goes_with_it(service, client, watches):
    stream_id = open_stream(client)
    watch, other = (watches.create(query, threshold=1)["id"] for query in ("glass", "stone"))
    append(client, stream_id, 0, "A tower of glass.")
    look = service.lethe.stream_events.look(TENANT, stream_id, Mark())
    assert [event.kind for event in look.events] == ["segment", "match"]
    assert set(service.lethe.indexes.get(TENANT).kept) == {watch, other}

    watches.forget(watch, wait=5)

    assert set(service.lethe.indexes.get(TENANT).kept) == {other}
    look = service.lethe.stream_events.look(TENANT, stream_id, Mark())
    assert [event.kind for event in look.events] == ["segment"]


def test_a_watch_of_a_stream_goes_with_it(client, watches):
    stream_id = open_stream(client)
    watch = watches.create("glass", stream_id=stream_id, threshold=1)
    client._send("DELETE", f"/v1/streams/{stream_id}", wait=5)
    with pytest.raises(ForgottenError):
        watches.get(watch["id"])
    with pytest.raises(ForgottenError):
        watches.create("glass", stream_id=stream_id)


def test_what_stands_is_the_same_after_a_rebuild(service, client, watches):
    watches.create("tower of glass", threshold=1)
    client.remember_text("A tower of glass.", wait=5)
    service.lethe.indexes.rewrite(TENANT)  # as a rebuild leaves it
    before = service.house.digest()
    service.lethe.rebuild(TENANT)
    assert service.house.digest() == before


@pytest.mark.parametrize(
    "body",
    [
        {"query": " "},
        {"query": "glass", "threshold": 1.5},
        {"query": "glass", "filter": {"metadata.year": {"$near": 3}}},
        {"query": "glass", "stream_id": "a b"},
        {"query": "glass", "title": "no field of a watch"},
    ],
)
def test_what_is_no_watch_is_refused(client, body):
    with pytest.raises(InvalidInputError):
        client._send("POST", "/v1/watches", json=body)


def test_only_so_many_stand(client, watches, monkeypatch):
    monkeypatch.setattr(service_watches, "MOST_WATCHES", 1)
    watch = watches.create("glass")
    reply = client._http.post("/v1/watches", json={"query": "stone"})
    assert reply.status_code == 409
    watches.forget(watch["id"], wait=5)
    watches.create("stone")
    with pytest.raises(NotFoundError):
        watches.create("stone", stream_id="nowhere")


def test_ids_of_events_stand_in_the_order_of_telling():
    ids = ["7", "7.00ab.0", "7.00ab.2", "7.01.0", "8", "8.ff.0", "8.closed", "9"]
    assert [Mark.parse(id).id for id in ids] == ids
    assert sorted(map(Mark.parse, ids)) == [Mark.parse(id) for id in ids]
    for wrong in ("", "-1", "7.", "7.00ab", "7.closed.1", "٣", "7.x.1", "9" * 30):
        with pytest.raises(InvalidInputError):
            Mark.parse(wrong)


@pytest.mark.models
def test_what_is_near_in_meaning_is_told(tmp_path):
    folder = ModelStore(default_cache(os.environ), offline=True).find("all-minilm-l6-v2")
    if folder is None:
        pytest.skip("all-minilm-l6-v2 is not in the model cache (lethe models get all-minilm-l6-v2)")
    with (
        real_service(tmp_path / "data", TextEncoder(folder, name="all-minilm-l6-v2")) as service,
        calling(service, "read", "write") as client,
    ):
        stream_id = open_stream(client)
        watch = client.watches.create("somebody fell into the water")
        append(client, stream_id, 0, "The band will play on Saturday evening.")
        append(client, stream_id, 1, "Man overboard! A sailor has fallen into the sea.")
        append(client, stream_id, 2, "Coffee is two euros in the canteen.")
        close(client, stream_id)
        heard = Listener(client, stream_id).whole()
        assert [data["number"] for _, kind, data in heard if kind == "match"] == [1]
        (hit,) = client.watches.get(watch["id"])["matches"]
        assert hit["score"] >= service_watches.THRESHOLD
