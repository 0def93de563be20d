"""What an attacker may want. A target is a file: how a guess is scored, what it is read against, how a report says it."""

from ani_jax.plugins import import_all

# Here, not where targets are looked up: whichever file is asked for first, all register in the same order.
import_all(__name__)
