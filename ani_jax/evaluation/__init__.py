"""Measurement: metrics, references, cost and the audit."""
