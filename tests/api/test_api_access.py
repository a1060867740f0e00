"""Who may do what: every route, with every kind of key, of both tenants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from doors import check_problem
from fastapi.routing import iter_route_contexts
from real import OTHER, Service, real_service, tiny_encoder

from memory.values import Attributes, SourceId, TenantId
from service.views import Scope
from tests.service.harness import TENANT, text_content

OPEN = None
OPERATOR = "operator"
READ, WRITE, FORGET, ADMIN = "read", "write", "forget", "admin"

EXPECTED: dict[tuple[str, str], frozenset[str] | None] = {
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/metrics"): OPEN,
    ("POST", "/v1/documents"): frozenset({WRITE}),
    ("GET", "/v1/documents"): frozenset({READ}),
    ("POST", "/v1/documents/batch"): frozenset({WRITE}),
    ("GET", "/v1/documents/{id}"): frozenset({READ}),
    ("PUT", "/v1/documents/{id}"): frozenset({WRITE}),
    ("DELETE", "/v1/documents/{id}"): frozenset({FORGET}),
    ("GET", "/v1/sources/{id}/frame"): frozenset({READ}),
    ("GET", "/v1/sources/{id}/clip"): frozenset({READ}),
    ("POST", "/v1/memories"): frozenset({WRITE}),
    ("GET", "/v1/memories"): frozenset({READ}),
    ("POST", "/v1/streams"): frozenset({WRITE}),
    ("GET", "/v1/streams"): frozenset({READ}),
    ("GET", "/v1/streams/{id}"): frozenset({READ}),
    ("GET", "/v1/streams/{id}/passages"): frozenset({READ}),
    ("POST", "/v1/streams/{id}/segments"): frozenset({WRITE}),
    ("POST", "/v1/streams/{id}/close"): frozenset({WRITE}),
    ("GET", "/v1/streams/{id}/events"): frozenset({READ}),
    ("DELETE", "/v1/streams/{id}"): frozenset({FORGET}),
    ("POST", "/v1/watches"): frozenset({WRITE}),
    ("GET", "/v1/watches"): frozenset({READ}),
    ("GET", "/v1/watches/{id}"): frozenset({READ}),
    ("DELETE", "/v1/watches/{id}"): frozenset({FORGET}),
    ("POST", "/v1/recall"): frozenset({READ}),
    ("GET", "/v1/topics"): frozenset({READ}),
    ("GET", "/v1/nodes/{id}"): frozenset({READ}),
    ("POST", "/v1/answer"): frozenset({READ}),
    ("POST", "/v1/forget"): frozenset({FORGET}),
    ("GET", "/v1/forget/{id}"): frozenset({READ, FORGET}),
    ("GET", "/v1/forget/{id}/certificate"): frozenset({READ, FORGET}),
    ("GET", "/v1/jobs"): frozenset({READ, WRITE, FORGET}),
    ("GET", "/v1/jobs/{id}"): frozenset({READ, WRITE, FORGET}),
    ("POST", "/v1/jobs/{id}/retry"): frozenset({WRITE}),
    ("POST", "/v1/jobs/{id}/cancel"): frozenset({WRITE}),
    ("GET", "/v1/stats"): frozenset({READ}),
    ("POST", "/v1/rebuild"): frozenset(),
    ("POST", "/v1/keys"): frozenset(),
    ("GET", "/v1/keys"): frozenset(),
    ("DELETE", "/v1/keys/{id}"): frozenset(),
    ("POST", "/v1/keys/{id}/rotate"): frozenset(),
    ("POST", "/v1/tenants"): frozenset({OPERATOR}),
    ("GET", "/v1/tenants"): frozenset({OPERATOR}),
}
"""Which roles a route takes beside admin; ``OPERATOR`` takes admins of the default tenant and nobody else."""

WORD = "zanzibar"
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/documents"): {"text": "a river of glass"},
    ("PUT", "/v1/documents/{id}"): {"text": "a tower of stone"},
    ("POST", "/v1/documents/batch"): [{"text": "winter music"}],
    ("POST", "/v1/memories"): {"text": "bob likes the garden"},
    ("POST", "/v1/streams"): {"kind": "text"},
    ("POST", "/v1/streams/{id}/segments"): {"number": 0, "cues": [{"start_ms": 0, "text": "a bell rings"}]},
    ("POST", "/v1/watches"): {"query": "a bell rings"},
    ("POST", "/v1/recall"): {"query": WORD},
    ("POST", "/v1/answer"): {"query": f"where is {WORD}"},
    ("POST", "/v1/keys"): {"name": "another", "roles": ["read"]},
    ("POST", "/v1/keys/{id}/rotate"): {"overlap_seconds": 5},
}
MOMENTS = {
    "/v1/sources/{id}/frame": {"at_ms": 0},
    "/v1/sources/{id}/clip": {"start_ms": 0, "end_ms": 1000},
}


@dataclass
class Things:
    """What a tenant holds, one of each kind that has an id."""

    document: str
    job: str
    forget: str
    key: str
    stream: str
    watch: str

    def id_for(self, path: str) -> str:
        kinds = {"documents": self.document, "jobs": self.job, "forget": self.forget, "keys": self.key}
        kinds |= {"nodes": self.document, "sources": self.document}
        kinds |= {"streams": self.stream, "watches": self.watch}
        return kinds[path.split("/")[2]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    encoder = tiny_encoder(tmp_path_factory.mktemp("model"))
    with real_service(tmp_path_factory.mktemp("house") / "data", encoder) as opened:
        yield opened


def make_things(service: Service, tenant_id: TenantId) -> Things:
    """Remember a document and keep it, forget another, make a key to be revoked."""
    lethe = service.lethe
    service.house.clock.now_us += 1_000_000
    kept, gone = lethe.remember(
        tenant_id,
        [text_content(f"{WORD} is a tower of glass", subjects=(f"person:{WORD}",)), text_content("a letter")],
    )
    service.house.waker.drain()
    forgotten = lethe.forget(tenant_id, Scope(ids=(gone.source_id,)), preview=False)
    spare = service.access.issue(tenant_id, ("read",), name=WORD)
    stream, _ = lethe.streams.open(tenant_id, "text", Attributes(title=WORD))
    watch = lethe.watches.create(tenant_id, WORD, stream_id=stream.id)
    return Things(kept.source_id, kept.job.id, forgotten.id, spare.view.id, stream.id, watch.id)


@pytest.fixture(scope="module")
def kept(service: Service) -> dict[TenantId, Things]:
    """Things that no test changes, one set for each tenant."""
    return {tenant_id: make_things(service, tenant_id) for tenant_id in (TENANT, OTHER)}


def list_routes(service: Service) -> set[tuple[str, str]]:
    """Return every (method, path) that the application serves, HEAD of the router's own left out."""
    return {
        (method, str(route.path))
        for route in iter_route_contexts(service.app.routes)
        for method in route.methods or ()
        if method != "HEAD"
    }


def ask(service: Service, key: str | None, method: str, path: str, id: str = "") -> Any:
    body = BODIES.get((method, path))
    if (method, path) == ("POST", "/v1/forget"):
        body = {"scope": {"ids": [id or "none"]}, "mode": "preview"}
    elif (method, path) == ("POST", "/v1/tenants"):
        ask.count += 1  # type: ignore[attr-defined]
        body = {"id": f"tenant-{ask.count}"}  # type: ignore[attr-defined]
    parameters = MOMENTS.get(path)
    return service.client(key).request(method, path.replace("{id}", id), json=body, params=parameters)


ask.count = 0  # type: ignore[attr-defined]

ROUTES = pytest.mark.parametrize(("method", "path"), sorted(EXPECTED), ids=lambda value: str(value))
GUARDED = [route for route, roles in sorted(EXPECTED.items()) if roles is not None]
EACH_GUARDED = pytest.mark.parametrize(("method", "path"), GUARDED, ids=lambda value: str(value))


def test_the_table_of_roles_names_every_route_and_no_other(service: Service) -> None:
    """A new route needs its entry in the table before anything else."""
    assert list_routes(service) == set(EXPECTED)


@ROUTES
def test_without_a_key_that_works_nothing_but_the_open_routes_answers(
    service: Service, method: str, path: str
) -> None:
    expiring = service.key("admin", seconds=5)
    revoked = service.access.issue(TENANT, ("admin",), name="revoked")
    service.access.revoke(TENANT, revoked.view.id)
    rotated = service.access.issue(TENANT, ("admin",), name="rotated")
    service.access.rotate(TENANT, rotated.view.id, overlap_seconds=0)
    assert service.client(expiring).get("/v1/stats").status_code == 200, "the control: it worked before"
    service.house.clock.now_us += 5_000_000

    for key in (None, "lethe_" + "x" * 43, "\x80", expiring, revoked.key, rotated.key):
        response = ask(service, key, method, path, "none")
        if EXPECTED[method, path] is OPEN:
            assert response.status_code == 200
        else:
            problem = check_problem(response, 401)
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert "none" not in problem["detail"]


@pytest.mark.parametrize("tenant_id", [TENANT, OTHER])
@pytest.mark.parametrize("role", [READ, WRITE, FORGET, ADMIN])
@EACH_GUARDED
def test_a_key_does_with_its_own_what_its_role_may(
    service: Service,
    kept: dict[TenantId, Things],
    method: str,
    path: str,
    role: str,
    tenant_id: TenantId,
) -> None:
    is_followed = path.endswith("/events")
    changes = "{id}" in path and (method != "GET" or is_followed)
    things = make_things(service, tenant_id) if changes else kept[tenant_id]
    if is_followed:
        service.lethe.streams.close(tenant_id, SourceId(things.stream))  # else its events have no end
    id = things.id_for(path) if "{id}" in path else things.document
    roles = EXPECTED[method, path]
    assert roles is not None
    may = role in roles or (role == ADMIN and (OPERATOR not in roles or tenant_id == TENANT))

    response = ask(service, service.key(role, tenant=tenant_id), method, path, id)

    if may:
        # A job that is done can be neither tried again nor cancelled: the role is enough, its state is not.
        ended = path.startswith("/v1/jobs/") and method == "POST"
        # Nor has a text a picture.
        unfit = (409,) if ended else (422,) if path in MOMENTS else None
        assert response.status_code in (unfit or (200, 201, 202)), response.text
    else:
        check_problem(response, 403)


@pytest.mark.parametrize(("mine", "theirs"), [(TENANT, OTHER), (OTHER, TENANT)])
@pytest.mark.parametrize("role", [READ, WRITE, FORGET, ADMIN])
@EACH_GUARDED
def test_what_is_another_tenants_is_as_if_it_were_not(
    service: Service,
    kept: dict[TenantId, Things],
    method: str,
    path: str,
    role: str,
    mine: TenantId,
    theirs: TenantId,
) -> None:
    """Ids of another tenant are answered word for word as ids of nothing; lists and searches leave them out."""
    things = kept[theirs]
    key = service.key(role, tenant=mine)
    roles = EXPECTED[method, path]
    assert roles is not None

    if "{id}" in path:
        id = things.id_for(path)
        response = ask(service, key, method, path, id)
        unknown = ask(service, key, method, path, "ffff")
        assert response.status_code == unknown.status_code == (404 if role in {*roles, ADMIN} else 403)
        check_problem(response, response.status_code)
        assert response.text.replace(id, "ffff") == unknown.text
    else:
        response = ask(service, key, method, path, things.document)
        assert response.status_code < 500
        if (method, path) == ("POST", "/v1/forget") and response.status_code == 200:
            unknown = ask(service, key, method, path, "ffff")
            assert response.json()["counts"] == unknown.json()["counts"]
            assert response.json()["counts"]["entries"] == 0
        for secret in (things.job, things.forget, things.key, things.stream, things.watch):
            assert secret not in response.text
        assert things.document not in response.text

    source = service.lethe.get_source(theirs, things.document)  # type: ignore[arg-type]
    assert (source.version, source.text) == (1, f"{WORD} is a tower of glass"), "still as it was"
    [key_view] = [
        view
        for view in service.access.list_keys(theirs, cursor=None, limit=10_000).items
        if view.id == things.key
    ]
    assert (key_view.revoked_at, key_view.replaced_by) == (None, None)


def test_no_other_field_of_a_request_chooses_the_tenant(service: Service) -> None:
    make_things(service, TENANT)
    client = service.client(service.key(ADMIN, tenant=OTHER))

    for name in ("tenant", "tenant_id"):
        check_problem(client.post("/v1/recall", json={"query": WORD, name: TENANT}), 422)
    plain = client.get("/v1/keys").json()
    assert client.get("/v1/keys", params={"tenant": TENANT}).json() == plain
    assert client.get("/v1/keys", headers={"x-tenant": TENANT}).json() == plain


def test_a_tenants_life_over_http(service: Service) -> None:
    """The operator makes a tenant and its first key; from then on the tenant's admin decides."""
    operator = service.client(service.key(ADMIN))
    assert operator.post("/v1/tenants", json={"id": "harbour"}).status_code == 201
    check_problem(operator.post("/v1/tenants", json={"id": "harbour"}), 409)
    check_problem(operator.post("/v1/tenants", json={"id": "../harbour"}), 422)
    assert "harbour" in [tenant["id"] for tenant in operator.get("/v1/tenants").json()["items"]]

    wanted = {"name": "first", "roles": ["admin"], "tenant": "harbour"}
    check_problem(operator.post("/v1/keys", json={**wanted, "roles": ["read"]}), 409)
    check_problem(operator.post("/v1/keys", json={**wanted, "tenant": "nowhere"}), 404)
    check_problem(service.client(service.key(ADMIN, tenant=OTHER)).post("/v1/keys", json=wanted), 404)
    first = operator.post("/v1/keys", json=wanted)
    assert first.status_code == 201
    assert first.headers["cache-control"] == "no-store"
    check_problem(operator.post("/v1/keys", json=wanted), 409)

    admin = service.client(first.json()["key"])
    assert admin.post("/v1/memories", json={"text": f"{WORD} music"}).status_code == 202
    assert len(admin.post("/v1/recall", json={"query": WORD}).json()["hits"]) == 1
    assert (
        admin.post("/v1/keys", json={"name": "own", "roles": ["read"], "tenant": "harbour"}).status_code
        == 201
    )


def test_a_key_is_shown_once_and_works_until_it_is_rotated_or_revoked(service: Service) -> None:
    admin = service.client(service.key(ADMIN))
    made = admin.post("/v1/keys", json={"name": "web", "roles": ["read", "read", "write"]}).json()
    assert (made["roles"], made["name"], made["expires_at"]) == (["read", "write"], "web", None)
    assert made["key"].startswith("lethe_")
    assert len(made["key"]) == len("lethe_") + 43, "256 bits"

    rotated = admin.post(f"/v1/keys/{made['id']}/rotate", json={"overlap_seconds": 60}).json()
    assert (rotated["roles"], rotated["name"]) == (made["roles"], made["name"])

    def works(new: dict[str, Any]) -> bool:
        return service.client(new["key"]).get("/v1/stats").status_code == 200

    assert works(made)
    assert works(rotated)
    check_problem(admin.post(f"/v1/keys/{made['id']}/rotate", json={"overlap_seconds": 0}), 409)
    service.house.clock.now_us += 60_000_000
    assert not works(made)
    assert works(rotated)

    assert admin.delete(f"/v1/keys/{rotated['id']}").json()["revoked_at"] is not None
    assert admin.delete(f"/v1/keys/{rotated['id']}").status_code == 200, "again changes nothing"
    assert not works(rotated)
    listed = admin.get("/v1/keys", params={"limit": 500})
    assert {made["id"], rotated["id"]} <= {one["id"] for one in listed.json()["items"]}
    for new in (made, rotated):
        assert new["key"] not in listed.text
