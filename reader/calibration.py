"""How often it was so. Made by ``bench/calibrate_abstention.py --confidence``; not to be edited by hand."""

ANSWERABLE_WEIGHTS: tuple[float, ...] = (-1.69, 0.61, 1.59, 1.77)
"""Weights of the first of ``reader.confidence.Signals.features``: does the evidence hold the answer?"""

ANSWERABLE_KNOTS: tuple[tuple[float, float], ...] = ((-3.0, 0.05), (3.0, 0.95))
"""Score → how often the evidence held the answer, ascending in both."""

WEIGHTS: dict[bool, tuple[float, ...]] = {
    False: (-2.04, 0.58, 0.97, 1.92, 0.01, 0.0),
    True: (-2.04, 0.58, 0.97, 1.92, 0.01, 0.0),
}
"""Weights of all signals: is the answer right? False: quoted, True: a model's words."""

KNOTS: dict[bool, tuple[tuple[float, float], ...]] = {
    False: ((-3.0, 0.05), (3.0, 0.95)),
    True: ((-3.0, 0.05), (3.0, 0.95)),
}
"""Score → how often an answer of that score was right, ascending in both."""
