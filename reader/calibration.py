"""How often it was so. Made by ``bench/calibrate_abstention.py --confidence``; not to be edited by hand."""

ANSWERABLE_WEIGHTS: tuple[float, ...] = (-1.595, 0.634, 1.615, 1.618)
"""Weights of the first of ``reader.confidence.Signals.features``: does the evidence hold the answer?"""

ANSWERABLE_KNOTS: tuple[tuple[float, float], ...] = (
    (-3.097, 0.0309),
    (-2.347, 0.1173),
    (-1.865, 0.1667),
    (-1.289, 0.1894),
    (-0.738, 0.3272),
    (-0.386, 0.3889),
    (-0.047, 0.5123),
    (0.248, 0.5494),
    (0.608, 0.6605),
    (1.182, 0.7422),
    (1.774, 0.8704),
    (2.265, 0.9321),
    (2.918, 0.9444),
)
"""Score → how often the evidence held the answer, ascending in both."""

WEIGHTS: dict[bool, tuple[float, ...]] = {
    False: (-2.104, 0.619, 0.947, 1.712, 0.247, -0.0),
}
"""Weights of all signals: is the answer right? False: quoted, True: a model's words, if fitted."""

KNOTS: dict[bool, tuple[tuple[float, float], ...]] = {
    False: (
        (-3.416, 0.0062),
        (-2.706, 0.0679),
        (-1.902, 0.139),
        (-1.194, 0.2284),
        (-0.855, 0.2654),
        (-0.553, 0.3642),
        (-0.259, 0.4753),
        (0.063, 0.5864),
        (0.428, 0.6111),
        (0.81, 0.6605),
        (1.162, 0.7593),
        (1.634, 0.821),
        (2.195, 0.8827),
    ),
}
"""Score → how often an answer of that score was right, ascending in both."""
