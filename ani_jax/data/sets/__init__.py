"""Every data set that has an entry. A new one is a file here that ends in its ``ENTRIES``, and its name in this list."""

from ani_jax.data.sets import cifar, faces, grey, shipped, voices, wheels

ENTRIES = (*grey.ENTRIES, *cifar.ENTRIES, *shipped.ENTRIES, *faces.ENTRIES, *wheels.ENTRIES, *voices.ENTRIES)
"""In the order in which the catalogue lists them; ``catalog.load`` takes any other tfds name too."""
