"""Requests generated from the OpenAPI document, against a real service: no 5xx, and replies as described.

A quarter of the cases break the schema on purpose. Which of those are refused with what is other tests' matter.
"""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from real import Service, real_service, tiny_encoder
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service.harness import TENANT, text_content

EXAMPLES = 12
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    encoder = tiny_encoder(tmp_path_factory.mktemp("model"))
    with real_service(tmp_path_factory.mktemp("house") / "data", encoder) as opened:
        opened.lethe.remember(TENANT, [text_content("the river tower is of glass")])
        opened.house.waker.drain()
        yield opened


@pytest.fixture
def described(service: Service):
    return schemathesis.openapi.from_asgi("/openapi.json", service.app)


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@hypothesis.settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_every_reply_is_as_described_and_none_a_server_error(case, service):
    """An admin key of its own for each case: the case may revoke any."""
    key = service.key("admin")
    case.call_and_validate(headers={"authorization": f"Bearer {key}"}, checks=CHECKS)
