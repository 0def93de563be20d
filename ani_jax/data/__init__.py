"""Data sets split by original, the pure functions that draw them, and the stateless choice of batches."""
