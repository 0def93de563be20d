"""PyTorch transcriptions of our work, to be timed against: same shapes, batch, optimiser and updates (`experiments.benchmark`).

Written as a PyTorch user would write them for speed: channels_last, in-place activations where autograd allows them, no needless
synchronisation or gradient. Their names are our modules', so that the tests can copy weights over and find the same losses.
"""
