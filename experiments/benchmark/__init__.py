"""The benchmark: our work beside PyTorch's; ``python -m experiments.benchmark`` is the command."""
