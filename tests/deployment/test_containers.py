"""Dockerfile and compose.yaml name only what is there, and keep to what a careful operator asks for.

There is no container engine in the tests: this reads the files and compares them with CLI and settings.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from api.cli import app
from service.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line and line[0] not in "# "]

EXACT = re.compile(
    r".+:v?\d+\.\d+\.\d+[\w.-]*|.+@sha256:[0-9a-f]{64}|lethe:\d+\.\d+\.\d+|postgres:\d+\.\d+-\w+"
)
SERVICES = sorted(COMPOSE["services"].items())


def known_commands() -> set[str]:
    return set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def known_settings() -> set[str]:
    return {f"LETHE_{name.upper()}" for name in Settings.model_fields}


def test_every_command_exists_with_its_flags() -> None:
    for name, service in SERVICES:
        if not str(service["image"]).startswith("lethe:"):
            continue
        first, *rest = service["command"]
        assert first in known_commands(), name
        command = typer.main.get_command(app).commands[first]  # type: ignore[attr-defined]
        for word in (each.partition("=")[0] for each in rest):
            options = {option for parameter in command.params for option in parameter.opts}
            assert word in options | set(getattr(command, "commands", ())), (name, word)
    assert [line[1] for line in INSTRUCTIONS if line[0] == "CMD"] == ['["serve"]']


def test_every_setting_exists() -> None:
    named = {
        key for _, service in SERVICES for key in service.get("environment", {}) if key.startswith("LETHE_")
    }
    named |= set(re.findall(r"\bLETHE_\w+(?==)", DOCKERFILE))
    assert len(named) > 8
    assert named <= known_settings()
    for _, service in SERVICES:
        given = {k.removeprefix("LETHE_").lower(): v for k, v in service.get("environment", {}).items()}
        Settings(**{name: value for name, value in given.items() if name in Settings.model_fields})


@pytest.mark.parametrize(("name", "service"), SERVICES, ids=[name for name, _ in SERVICES])
def test_a_service_is_held_tight(name: str, service: dict[str, Any]) -> None:
    """Exact image, read-only root, no privileges to gain, health said, nothing secret in the environment."""
    assert EXACT.fullmatch(service["image"]) and "latest" not in service["image"]
    assert service["read_only"] is True
    assert "no-new-privileges:true" in service["security_opt"]
    assert "test" in service["healthcheck"] or service["healthcheck"] == {"disable": True}
    assert "privileged" not in service
    if not service["image"].startswith("postgres:"):  # its entry point changes owner and user by itself
        assert service["cap_drop"] == ["ALL"]
        assert service["user"].partition(":")[0] not in ("0", "root")
    for key, value in service.get("environment", {}).items():
        assert "PASSWORD" not in key or key.endswith("_FILE")
        assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), "a password stands in a URL"


def test_whatever_a_service_refers_to_is_declared() -> None:
    used: dict[str, set[str]] = {"secrets": set(), "volumes": set(), "networks": set()}
    for _, service in SERVICES:
        used["secrets"] |= set(service.get("secrets", ()))
        used["networks"] |= set(service["networks"])
        used["volumes"] |= {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])
        for secret in re.findall(r"/run/secrets/(\w+)", str(service.get("environment"))):
            assert secret in service["secrets"]
        for host in re.findall(r"://(?:\w+@)?([\w-]+)", str(service.get("environment"))):
            assert host in COMPOSE["services"]
    for kind, names in used.items():
        assert names == set(COMPOSE[kind]), kind


def test_only_the_api_is_reachable_and_only_from_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES if "ports" in service}
    assert published == {"api": ["127.0.0.1:8700:8700"]}
    assert COMPOSE["networks"]["inside"] == {"internal": True}


def test_the_keys_have_a_server_and_a_volume_of_their_own() -> None:
    """A base backup or archived log of the journal's server must not hold them."""
    services = COMPOSE["services"]
    settings = services["api"]["environment"]
    assert "@postgres/" in settings["LETHE_DATABASE_URL"]
    assert "@postgres-keys/" in settings["LETHE_KEYS_URL"]
    assert not set(services["postgres"]["volumes"]) & set(services["postgres-keys"]["volumes"])


def test_the_dockerfile_is_careful() -> None:
    """What hadolint asks for: exact bases, no root, no package caches, hashes checked, exec form."""
    bases = [line[1].split()[0] for line in INSTRUCTIONS if line[0] == "FROM"]
    assert len(bases) == 2
    assert all(EXACT.fullmatch(base) for base in bases)
    final = INSTRUCTIONS[max(at for at, line in enumerate(INSTRUCTIONS) if line[0] == "FROM") :]
    users = [line[1] for line in final if line[0] == "USER"]
    assert users and users[-1].partition(":")[0].isdecimal() and users[-1].partition(":")[0] != "0"
    assert not [line for line in INSTRUCTIONS if line[0] == "ADD"]
    for line in INSTRUCTIONS:
        if line[0] != "RUN":
            continue
        for step in line[1].split("&&"):
            words = shlex.split(step)
            assert words[0] not in {"sudo", "apt-get", "apt", "curl", "wget"}
            if words[1:2] == ["install"] and words[0].endswith("pip"):
                assert "--no-cache-dir" in words
                assert "--require-hashes" in words or "torch==" in step or words[-1] == "."
    for name in ("ENTRYPOINT", "CMD"):
        assert [line[1][0] for line in final if line[0] == name] == ["["]
    assert [line for line in final if line[0] == "HEALTHCHECK"]


def test_the_image_gets_every_package_and_what_the_makefile_installs() -> None:
    copied = {word for line in INSTRUCTIONS if line[0] == "COPY" for word in line[1].split()[:-1]}
    copied -= {"--from=build", "/opt/lethe"}
    assert all((ROOT / name).exists() for name in copied)
    packages = re.search(
        r"packages = \[(.*)\]", (ROOT / "pyproject.toml").read_text().partition("[tool.setuptools]")[2]
    )
    assert packages
    named = set(re.findall(r'"([\w.]+)"', packages[1]))
    assert {name.partition(".")[0] for name in named} <= copied
    folders = {path.parent.relative_to(ROOT) for top in named for path in (ROOT / top).glob("**/*.py")}
    assert {".".join(folder.parts) for folder in folders} == named
    torch = re.search(r"^TORCH := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert torch and torch[1] in DOCKERFILE
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version and COMPOSE["services"]["api"]["image"] == f"lethe:{version[1]}"
