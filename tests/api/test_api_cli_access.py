"""The commands and client methods for keys and tenants, against a live service."""

from __future__ import annotations

import re

import pytest
import structlog
from doors import serving_app
from real import OTHER, real_service, tiny_encoder
from typer.testing import CliRunner

from api.cli import app
from api.cli_access import duration_seconds
from api.client import LetheClient
from memory.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    encoder = tiny_encoder(tmp_path_factory.mktemp("model"))
    with real_service(tmp_path_factory.mktemp("house") / "data", encoder) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(service):
    with serving_app(service.app, lifespan="off") as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def lethe_cli(service, url, monkeypatch):
    """Run a command with the first key, which is found in the data folder."""
    monkeypatch.setenv("LETHE_DATA", str(service.house.data))
    monkeypatch.setenv("LETHE_URL", url)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.delenv("LETHE_KEY", raising=False)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

    def run(*arguments: str, code: int = 0):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    yield run
    structlog.reset_defaults()


def test_a_key_made_by_the_command_works_until_it_is_revoked(lethe_cli, url):
    """Standard output holds the key and nothing else, to be piped into a file."""
    made = lethe_cli(
        "keys", "create", "web [red]shop", "--role", "read", "--role", "write", "--expires", "90d"
    )
    key = made.stdout.strip()
    assert re.fullmatch(r"lethe_[A-Za-z0-9_-]{43}", key)
    assert "read, write" in made.stderr
    [id] = re.findall(r"key ([0-9a-f]{32}) of tenant default", made.stderr)
    with LetheClient(url, key) as client:
        assert client.stats()["epoch"] == 0
        with pytest.raises(ForbiddenError):
            client.list_keys()

        rotated = lethe_cli("keys", "rotate", id, "--overlap", "1h").stdout.strip()
        assert client.stats()["epoch"] == 0
        lethe_cli("keys", "revoke", id)
        with pytest.raises(ForbiddenError, match="revoked"):
            client.stats()
    with LetheClient(url, rotated) as client:
        assert client.stats()["epoch"] == 0
    listed = lethe_cli("keys", "list").stdout
    assert re.search(rf"{id} .*web \[red\]shop .*read write .*revoked .*replaced by", listed)
    assert key not in listed


def test_a_tenant_made_by_the_command_comes_with_its_first_key(lethe_cli, url):
    key = lethe_cli("tenants", "create", "harbour").stdout.strip()
    with LetheClient(url, key) as client:
        client.remember_text("a tower of glass", wait=60)
        assert [one["tenant"] for one in client.list_keys()] == ["harbour"]
        assert client.create_key("reader", ["read"])["roles"] == ["read"]
        with pytest.raises(ForbiddenError):
            client.list_tenants()
    assert "harbour" in lethe_cli("tenants", "list").stdout
    assert "already" in lethe_cli("tenants", "create", "harbour", code=1).stderr
    assert (
        "has an admin key"
        in lethe_cli("keys", "create", "x", "--role", "admin", "--tenant", "harbour", code=1).stderr
    )


def test_the_last_admin_key_is_kept_and_the_command_says_why(lethe_cli, service):
    key_id = service.lethe.authenticate(service.lethe.admin_key_file.read_text().strip()).key_id
    assert "last admin key" in lethe_cli("keys", "revoke", key_id, code=1).stderr
    assert "no key 'ffff'" in lethe_cli("keys", "revoke", "ffff", code=1).stderr


def test_the_client_lists_all_pages_and_raises_the_services_errors(service, url):
    for number in range(3):
        service.access.issue(OTHER, ("read",), name=str(number))
    with LetheClient(url, service.key("admin", tenant=OTHER)) as client:
        assert len([*client._iter_pages("/v1/keys", 1)]) == len(client.list_keys()) == 4
        [mine] = [one for one in client.list_keys() if "admin" in one["roles"]]
        with pytest.raises(ConflictError, match="last admin key"):
            client.revoke_key(mine["id"])
        with pytest.raises(NotFoundError):
            client.rotate_key("ffff", overlap_seconds=0)
    with LetheClient(url, service.key("admin")) as client:
        client.create_tenant("quay")
        assert {"quay", OTHER} <= {one["id"] for one in client.list_tenants()}


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("30s", 30), ("5m", 300), ("12h", 43_200), ("90d", 7_776_000)]
)
def test_a_duration_has_its_unit(text, seconds):
    assert duration_seconds(text, "--expires") == seconds


@pytest.mark.parametrize("text", ["", "5", "d", "-5m", "1.5h", "5w", "5m\n", "٥m"])
def test_what_is_no_duration_is_told_how_to_write_one(text):
    with pytest.raises(InvalidInputError, match=r"--expires: .*90d"):
        duration_seconds(text, "--expires")
