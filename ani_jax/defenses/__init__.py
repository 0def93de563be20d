"""What leaves the device, and how it is trained: modules and losses composed. A method is a file, and registers itself."""

from ani_jax.plugins import import_all

# Here, not where defences are looked up: whichever file is asked for first, all register in the same order.
import_all(__name__)
