"""Flax linen modules: layers, clients, servers and adversaries, nothing but layers."""
