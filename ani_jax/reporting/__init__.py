"""Reports: terminal table, figures and one self-contained page, made from records and plain dicts alone (never jax)."""
