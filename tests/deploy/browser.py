"""Clients for browsers that are so small that one can see what they do, and a folder as an export leaves it."""

import shutil

import numpy as np
import pytest

from ani_jax.deploy import demo, wire
from ani_jax.records import AttackResult, Clause, Estimate, Evidence, Metric, Picture, TargetWords, to_json

SIDE = 8
MSE = Metric("mse", "MSE", "small")
WORDS = TargetWords(
    "image",
    "Image",
    (MSE,),
    "mse",
    False,
    "",
    "mse",
    "",
    ("mse",),
    (Clause("mse", "error"),),
    "error {}",
    is_input=True,
)
CARD = {
    "attacker": "",
    "defence": "none",
    "classes": ["zero", "one", "two"],
    "image_shape": [SIDE, SIDE, 3],
    "feature_shape": [SIDE // 2, SIDE // 2, 3],
    "low": None,
    "high": None,
    "levels": 0,
    "bits": 32,
    "noise": "none",
    "accuracy": 0.875,
}


def write_onnx(path, noisy):
    """A client that sends every other pixel, halved; with noise a quarter of that and unit noise."""
    onnx = pytest.importorskip("onnx", reason="pip install 'ani-jax[onnx]'")
    from onnx import TensorProto, helper, numpy_helper

    half = ["b", SIDE // 2, SIDE // 2, 3]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", SIDE, SIDE, 3])]
    constants = {
        "begin": np.array([0, 0], np.int64),
        "end": np.array([SIDE, SIDE], np.int64),
        "axes": np.array([1, 2], np.int64),
        "step": np.array([2, 2], np.int64),
        "scale": np.float32(0.5),
    }
    nodes = [
        helper.make_node("Slice", ["images", "begin", "end", "axes", "step"], ["small"]),
        helper.make_node("Mul", ["small", "scale"], ["scaled" if noisy else "z"]),
    ]
    if noisy:
        inputs.append(helper.make_tensor_value_info("noise", TensorProto.FLOAT, half))
        nodes.append(helper.make_node("Add", ["scaled", "noise"], ["z"]))
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, half)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "client", inputs, [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def evidence(originals, reconstructions):
    """What an audit leaves of which the page shows something: two attacks, of which the second is the stronger."""
    results = tuple(
        AttackResult(
            name, "image", 1, name, {"mse": Estimate(error)}, {}, (), Estimate(None), gallery=Picture.of(guess)
        )
        for name, error, guess in (("ridge", 0.2, originals * 0), ("decoder", 0.1, reconstructions))
    )
    return Evidence(
        "none", "digits", 0, "preview", {}, {}, {}, results, gallery=Picture.of(originals), targets=(WORDS,)
    )


def side(folder, defence="none", noise="none", gallery=True, **card):
    """The folder of a client for browsers, as the page's routes take it."""
    folder.mkdir(parents=True)
    write_onnx(folder / demo.CLIENT, noise != "none")
    if gallery:
        originals = np.random.default_rng(0).random((3, SIDE, SIDE, 3))
        (folder / demo.EVIDENCE).write_text(to_json(evidence(originals, 1 - originals)))
    spec = wire.Spec(f"{defence}-pair", (SIDE // 2, SIDE // 2, 3), "float32")
    return demo.Side(folder, {**CARD, "defence": defence, "noise": noise, **card}, spec)


def network(z):
    """Red, green or blue, whatever there is most of."""
    return 4 * z.mean((1, 2))


def chromium(runtime=True):
    """A headless Chromium that keeps a log of its network, or a skipped test; ``runtime``: clients shall run in it."""
    selenium = pytest.importorskip("selenium.webdriver", reason="pip install 'ani-jax[test]'")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromium-driver are not installed")
    if runtime and any(not (demo.RUNTIME / name).is_file() for name in demo.PARTS):
        pytest.skip(f"npm ci --ignore-scripts --prefix {demo.FOLDER}")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,1000",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    from selenium.webdriver.chrome.service import Service

    return selenium.Chrome(options=options, service=Service(driver))
