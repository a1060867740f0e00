"""Requests generated from the OpenAPI document, against a real service: no 5xx, and replies as described.

Some of the cases break the schema on purpose. Whether those are refused is the matter of other tests.
"""

from __future__ import annotations

import pytest
import schemathesis
from fake_lethe import FakeLethe
from hypothesis import HealthCheck, Phase, given, settings
from real import OTHER, real_service, tiny_encoder
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app
from tests.service.harness import TENANT, text_content

EXAMPLES = 10
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
CASES = [
    (method.upper(), path, mode)
    for path, methods in create_app(FakeLethe()).openapi()["paths"].items()
    for method in methods
    for mode in GenerationMode
    if mode == GenerationMode.POSITIVE or path.startswith("/v1/")  # the others take nothing to get wrong
]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    encoder = tiny_encoder(tmp_path_factory.mktemp("model"))
    with real_service(tmp_path_factory.mktemp("house") / "data", encoder) as opened:
        for tenant_id in (TENANT, OTHER):
            opened.lethe.remember(tenant_id, [text_content("the river tower is of glass")])
        opened.house.waker.drain()
        yield opened


@pytest.fixture(scope="module")
def described(service):
    return schemathesis.openapi.from_asgi("/openapi.json", service.app)


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_every_reply_is_as_described_and_none_a_server_error(service, described, method, path, mode):
    """An admin key of its own for each operation, as a case may revoke the one it came with."""
    operation = described[path][method]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        key = service.key("admin")
        case.headers.pop("Prefer", None)  # a generated "wait" would wait
        case.call_and_validate(headers={"authorization": f"Bearer {key}"}, checks=CHECKS)

    check()
