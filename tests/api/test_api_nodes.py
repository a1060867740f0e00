"""The hierarchy at the doors: topics and nodes over HTTP, in the client and on the command line."""

from __future__ import annotations

import pytest
from doors import check_problem, serving_app
from real import OTHER, real_service, tiny_encoder
from typer.testing import CliRunner

from api.cli import app as cli
from api.client import LetheClient
from service.views import Scope
from tests.service.harness import TENANT, text_content

PLACES = ("river", "tower", "garden", "glass", "stone")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    encoder = tiny_encoder(tmp_path_factory.mktemp("model"))
    with real_service(tmp_path_factory.mktemp("house") / "data", encoder) as opened:
        contents = [text_content(f"The {place} is old.", title=place, subjects=("mara",)) for place in PLACES]
        opened.lethe.remember(TENANT, contents)
        opened.house.waker.drain()
        yield opened


def test_topics_lead_down_to_sources(service):
    client = service.client(service.key("read"))
    (topic,) = client.get("/v1/topics").json()["items"]
    assert (topic["sources"], topic["passages"], topic["parent"]) == (5, 5, None)
    node = client.get(f"/v1/nodes/{topic['id']}", params={"limit": 2}).json()
    rest = client.get(f"/v1/nodes/{topic['id']}", params={"cursor": node["next_cursor"]}).json()
    assert rest["next_cursor"] is None
    children = node["children"] + rest["children"]
    assert sorted(child["title"] for child in children) == sorted(PLACES)
    assert node["subjects"] == [{"subject": "mara", "sources": 5}]
    assert node["summary"] == topic["summary"]
    source = client.get(f"/v1/nodes/{children[0]['id']}").json()
    assert (source["kind"], source["parent"]) == ("source", topic["id"])
    (sentence,) = source["summary"]
    whole = client.get(f"/v1/documents/{sentence['source_id']}").json()["text"]
    assert whole[sentence["start"] : sentence["end"]] == sentence["text"]
    assert sentence["text"] in {one["text"] for one in topic["summary"]} or len(topic["summary"]) == 3


def test_nodes_are_the_readers_of_their_tenant_alone(service):
    mine = service.client(service.key("read"))
    (topic,) = mine.get("/v1/topics").json()["items"]
    for path in ("/v1/topics", f"/v1/nodes/{topic['id']}"):
        check_problem(service.client(service.key("write")).get(path), 403)
        check_problem(service.client(None).get(path), 401)
    theirs = service.client(service.key("read", tenant=OTHER))
    assert theirs.get("/v1/topics").json() == {"items": [], "next_cursor": None}
    check_problem(theirs.get(f"/v1/nodes/{topic['id']}"), 404)
    check_problem(mine.get("/v1/nodes/nothing"), 404)
    check_problem(mine.get("/v1/topics", params={"cursor": "x"}), 422)
    check_problem(mine.get(f"/v1/nodes/{topic['id']}", params={"cursor": "WzEsIngiXQ=="}), 422)
    check_problem(mine.get("/v1/topics", params={"level": 0}), 422)


def test_client_and_command_line_walk_the_same_tree(service):
    key = service.key("read")
    with serving_app(service.app, lifespan="off") as port:
        url = f"http://127.0.0.1:{port}"
        with LetheClient(url, key) as client:
            (topic,) = client.iter_topics()
            assert list(client.iter_topics(level=1)) == [topic]
            node = client.get_node(topic["id"])
        listed = CliRunner().invoke(cli, ["topics", "--url", url, "--key", key])
        opened = CliRunner().invoke(cli, ["topics", topic["id"], "--url", url, "--key", key])
    assert (listed.exit_code, opened.exit_code) == (0, 0)
    assert topic["id"] in listed.output
    assert all(child["id"] in opened.output for child in node["children"])
    assert all(sentence["text"] in opened.output for sentence in node["summary"])
    assert "mara (5)" in opened.output


def test_a_forgotten_source_is_in_no_node(service):
    """Last in this module: one source goes."""
    reader = service.client(service.key("read"))
    (topic,) = reader.get("/v1/topics").json()["items"]
    gone = reader.get(f"/v1/nodes/{topic['id']}").json()["children"][0]["id"]
    service.lethe.forget(TENANT, Scope(ids=(gone,)), preview=False)
    check_problem(reader.get(f"/v1/nodes/{gone}"), 404)
    check_problem(reader.get(f"/v1/nodes/{topic['id']}"), 404)
    service.house.waker.drain()
    (left,) = reader.get("/v1/topics").json()["items"]
    assert left["sources"] == 4
