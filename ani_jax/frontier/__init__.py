"""Utility against leakage over weights, seeds and defences: the points and their geometry, and the sweep that trains them."""
