"""Minimisation for attackers, estimators and priors."""
