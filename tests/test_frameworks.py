"""docs/FRAMEWORKS.md runs, word for word, where a recipe's package is installed; only the attackers are fewer."""

import functools
import pathlib
import re

import jax
import numpy as np
import pytest

import ani_jax
from ani_jax.attacks import attribute, decoder
from ani_jax.attacks.base import Family
from ani_jax.data import digits
from ani_jax.evaluation.audit import audit
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.targets.vector import Vector

TEXT = (pathlib.Path(__file__).parent.parent / "docs" / "FRAMEWORKS.md").read_text()
RECIPES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", TEXT, re.M | re.S))
INK = Attribute("ink", 4)


@pytest.fixture(scope="module")
def data():
    return digits.load(image_size=16)


@pytest.fixture
def recipe(data, tmp_path, monkeypatch):
    """Runs a recipe, where its package is, with what its page takes for granted; what it leaves behind."""
    monkeypatch.chdir(tmp_path)

    def run(title, target=None, **given):
        target = target or Image()
        few = Family("attribute", INK, (attribute.Probe(INK),)), Family("decoder", target, (decoder.Ridge(target),))
        monkeypatch.setattr(ani_jax, "audit", functools.partial(audit, attacks=few), raising=False)
        own = data.auxiliary.draw(jax.random.key(0), 900)
        names = {"data": data, "images": np.asarray(own.image), "ink": np.asarray(own.sensitive["ink"])}
        names |= {"level": "preview", **given}
        assert len([line for line in RECIPES[title].splitlines() if line.strip()]) < 10
        exec(compile(RECIPES[title], "docs/FRAMEWORKS.md", "exec"), names)
        return names

    return run


def read(names, target="image"):
    """None of these clients hides anything."""
    evidence = names["evidence"]
    assert [result.status for result in evidence.attacks] == ["ok", "ok"]
    assert evidence.attack("attribute", "ink").scores["balanced_accuracy"].value > 0.8
    assert evidence.attack("decoder", target).scores["r2_mean"].value > 0.4
    return evidence


def test_the_page_has_its_recipes():
    assert list(RECIPES) == ["PyTorch", "scikit-learn", "ONNX", "TFLite", "From a file"]


@pytest.mark.slow
def test_a_pytorch_client_is_asked(recipe):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 8, 4, stride=4).eval()
    names = recipe("PyTorch", net=net)
    evidence = read(names)
    assert not any("recorded pairs" in note for note in evidence.notes)
    x = np.asarray(names["data"].test.image[:5])
    with torch.no_grad():
        own = net(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(names["client"](x), own, atol=1e-5)


def test_a_transformer_of_scikit_learn_is_recorded(recipe):
    evidence = read(recipe("scikit-learn", Vector()), "vector")
    assert any(note.startswith("recorded pairs") for note in evidence.notes)


def test_an_onnx_model_is_recorded(recipe, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install onnxruntime")
    onnx = pytest.importorskip("onnx", reason="needs onnx, to write a model: pip install onnx")
    make, number = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        make.make_node("Transpose", ["x"], ["turned"], perm=[0, 3, 1, 2]),
        make.make_node("AveragePool", ["turned"], ["z"], kernel_shape=[4, 4], strides=[4, 4]),
    ]
    given, sent = (
        make.make_tensor_value_info(name, number, ["n", *shape])
        for name, shape in (("x", (16, 16, 3)), ("z", (3, 4, 4)))
    )
    model = make.make_model(
        make.make_graph(nodes, "client", [given], [sent]), opset_imports=[make.make_opsetid("", 17)]
    )
    model.ir_version = 10
    onnx.save(model, tmp_path / "client.onnx")
    names = recipe("ONNX")
    read(names)
    np.testing.assert_allclose(names["z"], means(names["images"]).transpose(0, 3, 1, 2), atol=1e-5)


def means(images):
    return images.reshape(len(images), 4, 4, 4, 4, 3).mean((2, 4))


def test_a_tflite_model_is_recorded(recipe, tmp_path):
    pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert: pip install ai-edge-litert")
    from ai_edge_litert import schema_py_generated as schema

    (tmp_path / "client.tflite").write_bytes(pooling(schema))
    names = recipe("TFLite")
    read(names)
    np.testing.assert_allclose(names["z"], means(names["images"]), atol=1e-5)


def pooling(schema):
    """A model that averages squares of 4x4 pixels, one 16x16 image at a time."""
    import flatbuffers

    def tensor(name, shape):
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, shape, schema.TensorType.FLOAT32, 0
        return made

    def place(name, index):
        made = schema.TensorMapT()
        made.name, made.tensorIndex = name, index
        return made

    options = schema.Pool2DOptionsT()
    options.strideH = options.strideW = options.filterHeight = options.filterWidth = 4
    options.padding = schema.Padding.VALID
    pool, code, graph, call, model = (
        kind()
        for kind in (schema.OperatorT, schema.OperatorCodeT, schema.SubGraphT, schema.SignatureDefT, schema.ModelT)
    )
    pool.opcodeIndex, pool.inputs, pool.outputs = 0, [0], [1]
    pool.builtinOptionsType, pool.builtinOptions = schema.BuiltinOptions.Pool2DOptions, options
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.AVERAGE_POOL_2D
    code.version = 1
    graph.tensors = [tensor("x", [1, 16, 16, 3]), tensor("z", [1, 4, 4, 3])]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [pool]
    call.signatureKey, call.subgraphIndex = "serving_default", 0
    call.inputs, call.outputs = [place("x", 0)], [place("z", 1)]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers, model.signatureDefs = [schema.BufferT()], [call]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_file_of_small_integers_is_read(recipe, tmp_path):
    recipe("From a file", z=np.random.default_rng(0).normal(size=(900, 4)) * 40)
    pairs = ani_jax.Pairs.read(tmp_path / "pairs.npz")
    assert (pairs.z.dtype, pairs.tasks[0].classes) == (np.int8, 4)
    np.testing.assert_array_equal(pairs.data(9, 9, 9)[0].test.sensitive["ink"].shape, (9,))
