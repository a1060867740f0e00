"""Metadata that says where: within so many metres of a place, and everything that is no place."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memory.errors import InvalidInputError
from memory.filters import compile_filter
from memory.places import RADIUS_M, distance_m
from memory.values import Attributes, JsonValue

GOTHENBURG, FREDERIKSHAVN = (57.7089, 11.9746), (57.4407, 10.5366)


def finds(near: JsonValue, at: JsonValue) -> bool:
    condition = compile_filter({"metadata.at": {"$near": near}})
    entry = Attributes(metadata={"at": at})
    return condition.matches(entry, recorded_at=datetime(2026, 3, 1, tzinfo=UTC))


def test_distances_are_those_of_a_sphere() -> None:
    assert distance_m((0, 0), (0, 0)) == 0
    assert distance_m((0, 0), (0, 90)) == pytest.approx(RADIUS_M * 3.14159265 / 2)
    assert distance_m((90, 0), (-90, 123)) == pytest.approx(RADIUS_M * 3.14159265)
    assert distance_m((0, 179.999), (0, -179.999)) == pytest.approx(222.4, abs=0.1)
    # By the ellipsoid 90.9 km (Vincenty).
    assert distance_m(GOTHENBURG, FREDERIKSHAVN) == pytest.approx(90_900, rel=0.005)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ({"lat": 57.709, "lon": 11.975}, True),
        ({"lat": 57.709, "lon": 11.975, "heading": 270}, True),
        ({"lat": 57.4407, "lon": 10.5366}, False),
        ([{"lat": 0, "lon": 0}, {"lat": 57.709, "lon": 11.975}], True),
        ({"lat": "57.709", "lon": 11.975}, False),
        ({"lat": True, "lon": 11.975}, False),
        ({"lat": 99, "lon": 11.975}, False),
        ("57.709 11.975", False),
        (None, False),
    ],
)
def test_only_a_place_nearby_is_found(at: JsonValue, expected: bool) -> None:
    assert finds({"lat": 57.7089, "lon": 11.9746, "within_m": 100}, at) is expected


@pytest.mark.parametrize(
    "near",
    [
        None,
        [57, 11, 100],
        {"lat": 57, "lon": 11},
        {"lat": 57, "lon": 11, "within_m": -1},
        {"lat": 91, "lon": 11, "within_m": 1},
        {"lat": 57, "lon": 11, "within_m": 1, "unit": "km"},
    ],
)
def test_what_is_no_place_is_refused_with_its_place_in_the_filter(near: JsonValue) -> None:
    with pytest.raises(InvalidInputError) as refused:
        finds(near, None)
    assert "metadata.at.$near" in str(refused.value)


def test_only_metadata_has_places() -> None:
    with pytest.raises(InvalidInputError, match="only metadata"):
        compile_filter({"subjects": {"$near": {"lat": 0, "lon": 0, "within_m": 1}}})
