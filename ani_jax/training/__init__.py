"""The one min-max step, its state, and the loop around it."""
