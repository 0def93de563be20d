"""Attackers, trained after the defence on what the client sends."""
