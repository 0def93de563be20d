"""One defence at many privacy weights: which of its members pay, and how they are trained."""
