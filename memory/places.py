"""Places on the earth, as metadata has them: ``{"lat": 57.7, "lon": 11.96}`` in degrees (WGS 84)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from memory.errors import InvalidInputError

RADIUS_M = 6_371_008.8
"""The earth's mean radius (Moritz 2000, Geodetic Reference System 1980)."""


@dataclass(frozen=True, slots=True)
class Around:
    """Everywhere within so many metres of a place."""

    lat: float
    lon: float
    within_m: float

    def holds(self, value: object) -> bool:
        """Say whether a value is a place and lies here; what is no place lies nowhere."""
        place = find_place(value)
        return place is not None and distance_m((self.lat, self.lon), place) <= self.within_m


def find_place(value: object) -> tuple[float, float] | None:
    """Return latitude and longitude in degrees, ``None`` for what is no place; more may stand beside."""
    if not isinstance(value, Mapping):
        return None
    lat, lon = _number(value.get("lat"), 90), _number(value.get("lon"), 360)
    return None if lat is None or lon is None else (lat, lon)


def read_around(value: object, where: str) -> Around:
    """Return what ``{"lat", "lon", "within_m"}`` means; raises ``InvalidInputError`` for anything else."""
    place = find_place(value)
    within = _number(value.get("within_m"), 1e9) if isinstance(value, Mapping) and len(value) == 3 else None
    if place is None or within is None or within < 0:
        raise InvalidInputError('needs {"lat", "lon", "within_m"}: degrees, and metres', where=where)
    return Around(*place, within)


def distance_m(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Return the metres along the earth's surface between two places, as of a sphere (haversine)."""
    lat, lon, other_lat, other_lon = map(math.radians, (*first, *second))
    half = math.sin((other_lat - lat) / 2) ** 2
    half += math.cos(lat) * math.cos(other_lat) * math.sin((other_lon - lon) / 2) ** 2
    return 2 * RADIUS_M * math.asin(math.sqrt(min(1.0, half)))


def _number(value: object, most: float) -> float | None:
    """Return a number that is not beyond ``most`` either way, ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= most:
        return None
    return float(value)
