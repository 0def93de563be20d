"""Attackers, trained after the defence on what the client sends. An attack is a file, and registers itself."""

from ani_jax.plugins import import_all

# Here, not where attacks are looked up: whichever file is asked for first, all register in the same order.
import_all(__name__)
