"""Forgetting over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime

from doors import check_problem, client_of

from service.views import Scope

WAIT = {"prefer": "wait=5"}


def remember(http, **fields) -> str:
    return http.post("/v1/documents", json={"text": "tide", **fields}).json()["id"]


def test_every_condition_reaches_the_use_case(http, lethe):
    scope = {
        "ids": ["a"],
        "external_ids": ["e"],
        "subjects": ["s"],
        "filter": {"metadata.team": {"$ne": None}},
        "time_range": {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00+01:00"},
        "user_id": "bob",
    }

    reply = http.post("/v1/forget", json={"scope": scope, "mode": "preview"})

    assert reply.status_code == 200
    assert reply.json() == {"id": "preview", "state": "previewed", "epoch": 1, "counts": {"entries": 0}}
    assert lethe.scopes == [
        Scope(
            ("a",),
            ("e",),
            ("s",),
            {"metadata.team": {"$ne": None}},
            datetime(2026, 1, 1, tzinfo=UTC),
            datetime(2026, 1, 1, 23, tzinfo=UTC),
            "bob",
        )
    ]


def test_a_preview_forgets_nothing(http):
    id = remember(http)

    reply = http.post("/v1/forget", json={"scope": {"ids": [id]}, "mode": "preview"}, headers=WAIT)

    assert reply.json()["counts"] == {"entries": 1}
    assert http.get(f"/v1/documents/{id}").status_code == 200


def test_a_forget_is_202_when_fenced_and_200_when_certified_in_time(http, lethe):
    first, second = remember(http, subjects=["a"]), remember(http, subjects=["b"])

    fenced = http.post("/v1/forget", json={"scope": {"subjects": ["a"]}, "mode": "execute"})
    certified = http.post("/v1/forget", json={"scope": {"subjects": ["b"]}, "mode": "execute"}, headers=WAIT)

    assert (fenced.status_code, fenced.json()["state"]) == (202, "fenced")
    assert fenced.json().keys() == {"id", "state", "epoch", "counts"}
    assert (certified.status_code, certified.json()["state"]) == (200, "certified")
    assert certified.headers["preference-applied"] == "wait=5"
    assert [http.get(f"/v1/documents/{id}").status_code for id in (first, second)] == [410, 410]
    followed = http.get(f"/v1/forget/{fenced.json()['id']}")
    assert followed.json()["remaining"] == {}
    certificate = http.get(f"/v1/forget/{fenced.json()['id']}/certificate")
    assert certificate.json()["forget"] == fenced.json()["id"]


def test_there_is_no_certificate_before_its_time(lethe):
    lethe.slow = True
    http = client_of(lethe)
    id = remember(http)

    reply = http.delete(f"/v1/documents/{id}", headers={"prefer": "wait=0"})

    assert (reply.status_code, reply.json()["state"]) == (202, "fenced")
    forget = reply.json()["id"]
    assert http.get(f"/v1/forget/{forget}").json()["remaining"] == {"vectors": 1}
    check_problem(http.get(f"/v1/forget/{forget}/certificate"), 404)


def test_deleting_a_document_forgets_it(http, lethe):
    id = remember(http)

    reply = http.delete(f"/v1/documents/{id}")

    assert reply.status_code == 202
    assert lethe.scopes == [Scope(ids=(id,))]
    check_problem(http.get(f"/v1/documents/{id}"), 410)
