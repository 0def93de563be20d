"""What is said to be the best score is what somebody reaches who knows the client and sees what it sends alone."""

import jax
import numpy as np
import pytest

from tests import clients


def marked(z):
    """What is left of pictures beside the ten directions in which they vary is the pattern, of either sign."""
    rows = z.reshape(len(z), -1).astype(np.float64)
    waves = np.linalg.svd(rows, full_matrices=False)[2][: clients.WAVES]
    pattern = 1.0 - 2 * np.asarray(jax.random.bernoulli(jax.random.key(0), 0.5, z.shape[1:])).ravel()
    return (rows - rows @ waves.T @ waves) @ pattern > 0


ORACLES = {
    "votes": lambda z: z.sum(1) > 0,
    "parity": lambda z: z[:, 48 + 4] * z[:, 48 + 11] < 0,
    "spikes": lambda z: z[:, 256:].max(1) > z[:, :256].max(1),
    "variance": lambda z: np.square(z).mean(1) > np.log(clients.SPREAD**2) / (1 - clients.SPREAD**-2),
    "mark": marked,
}


@pytest.mark.parametrize("name", clients.CLIENTS)
def test_whoever_knows_the_client_reaches_the_best_score(name):
    batch = clients.data(128).test
    args = (batch.image,) if name == "mark" else (batch.image, jax.random.key(3))
    reached = (ORACLES[name](np.asarray(clients.CLIENTS[name](*args))) == batch.sensitive["secret"]).mean()
    # Of two thousand rows: two standard errors are two points at most.
    assert float(reached) == pytest.approx(clients.BEST[name], abs=0.025)
