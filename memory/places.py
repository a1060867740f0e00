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
    """Return latitude and longitude in degrees, ``None`` for what is no place. Other fields may stand beside."""
    if not isinstance(value, Mapping):
        return None
    lat, lon = value.get("lat"), value.get("lon")
    if not _is_number(lat, 90) or not _is_number(lon, 360):
        return None
    return float(lat), float(lon)


def read_around(value: object, where: str) -> Around:
    """Return what ``{"lat", "lon", "within_m"}`` means; raises ``InvalidInputError`` for anything else."""
    place = find_place(value)
    within = value.get("within_m") if isinstance(value, Mapping) else None
    if place is None or not _is_number(within, 1e9) or within < 0 or len(value) != 3:  # type: ignore[arg-type]
        raise InvalidInputError('needs {"lat", "lon", "within_m"}: degrees, and metres', where=where)
    return Around(*place, float(within))


def distance_m(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Return the metres along the earth's surface between two places, as of a sphere (haversine)."""
    (lat, lon), (other_lat, other_lon) = (tuple(map(math.radians, place)) for place in (first, second))
    half = math.sin((other_lat - lat) / 2) ** 2
    half += math.cos(lat) * math.cos(other_lat) * math.sin((other_lon - lon) / 2) ** 2
    return 2 * RADIUS_M * math.asin(math.sqrt(min(1.0, half)))


def _is_number(value: object, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most
