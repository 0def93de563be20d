"""A client as an ONNX graph: its jaxpr, equation by equation, over the primitives that clients use.

Whatever depends on weights alone is computed here and becomes a constant. Noise does not: it is an input, which whoever runs the
graph draws. (jax2onnx does more; as of 0.17 it needs an orbax older than the checkpoints of this house.)
"""

import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.extend import core
from jaxtyping import Array

OPSET = 18
"""Version of ONNX's operators: of 2022, so that browsers' runtimes have it."""
BATCH = "b"
SAME = {
    "add": "Add",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "logistic": "Sigmoid",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "stop_gradient": "Identity",
    "sub": "Sub",
    "tanh": "Tanh",
}
"""Primitive -> the operator that does the same."""
INLINED = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "checkpoint": "jaxpr"}
"""Primitive that calls a jaxpr -> its parameter that holds it."""


def onnx_bytes(function: Callable[..., Array], shapes: dict[str, tuple[int, ...]]) -> bytes:
    """The ONNX model of a function of batches.

    Args:
        function: of float32 arrays, a row an example.
        shapes: name of each argument -> shape of one example.

    Returns:
        A serialised model whose output is called "z".

    Raises:
        ValueError: the function uses a primitive that has no translation, or the extra is missing; one line.
    """
    try:
        import onnx
    except ImportError:
        raise ValueError("onnx=True: needs the package onnx; pip install 'ani-jax[onnx]'") from None
    (batch,) = export.symbolic_shape(BATCH)
    specs = [jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for shape in shapes.values()]
    closed = jax.make_jaxpr(function)(*specs)
    graph = Graph(next(iter(shapes)))
    (result,) = graph.run(closed.jaxpr, closed.consts, list(shapes))
    graph.nodes.append(onnx.helper.make_node("Identity", [graph.name(result)], ["z"]))
    shapes = {**shapes, "z": closed.out_avals[0].shape[1:]}
    *inputs, output = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [BATCH, *shape])
        for name, shape in shapes.items()
    )
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in graph.constants.items()]
    made = onnx.helper.make_graph(graph.nodes, "client", inputs, [output], tensors)
    # The version of the format that came with the operators': a runtime may be older than this package.
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class Graph:
    """Nodes and constants of a graph that is being written.

    A value is a name, of what depends on an input, or an array.
    """

    def __init__(self, first: str):
        self.first, self.nodes, self.constants = first, [], {}

    def run(self, jaxpr: core.Jaxpr, consts: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        """Translates a jaxpr, given the values of its inputs."""
        known: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, core.Literal) else known[variable]

        for equation in jaxpr.eqns:
            name, inputs = equation.primitive.name, [read(variable) for variable in equation.invars]
            fixed = not any(isinstance(value, str) for value in inputs)
            if name in INLINED:
                inner = equation.params[INLINED[name]]
                results = self.run(inner.jaxpr, inner.consts, inputs)
            elif fixed and all(isinstance(size, int) for out in equation.outvars for size in out.aval.shape):  # type: ignore[union-attr]
                results = equation.primitive.bind(*inputs, **equation.params)
                results = results if equation.primitive.multiple_results else [results]
            elif name in SAME:
                results = [self.add(SAME[name], inputs)]
            elif name in FORMS:
                results = [FORMS[name](self, inputs, equation)]
            else:
                raise ValueError(f"onnx=True: the client uses {name}, which has no translation; export without it")
            known.update(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def name(self, value: Any) -> str:
        """The name of a value, which becomes a constant if it has none."""
        if isinstance(value, str):
            return value
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def add(self, operator: str, inputs: Sequence[Any], **attributes: Any) -> str:
        """Appends a node; the name of its one output."""
        from onnx import helper

        name = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [self.name(value) for value in inputs], [name], **attributes))
        return name

    def sizes(self, shape: Sequence[Any]) -> Any:
        """A shape as a value; the batch is that of the first input."""
        if all(isinstance(size, int) for size in shape):
            return np.array(shape, np.int64)
        batch = self.add("Shape", [self.first], start=0, end=1)
        parts = [np.array([size], np.int64) if isinstance(size, int) else batch for size in shape]
        return self.add("Concat", parts, axis=0)

    def reshape(self, value: Any, shape: Sequence[Any]) -> str:
        """The value in another shape, of which one size may be symbolic."""
        return self.add("Reshape", [value, np.array([s if isinstance(s, int) else -1 for s in shape], np.int64)])


def reshaped(graph: Graph, inputs: list[Any], equation: core.JaxprEqn) -> str:
    """Another shape, of which the batch may be a part."""
    return graph.reshape(inputs[0], equation.outvars[0].aval.shape)  # type: ignore[union-attr]


def broadcast(graph: Graph, inputs: list[Any], equation: core.JaxprEqn) -> str:
    """Repeated along axes, new ones among them."""
    shape, lifted = equation.params["shape"], [1] * len(equation.params["shape"])
    for axis, size in zip(equation.params["broadcast_dimensions"], equation.invars[0].aval.shape):  # type: ignore[union-attr]
        lifted[axis] = size
    value = graph.reshape(inputs[0], lifted)
    # A size of 1 leaves what is there.
    wider = [1 if size == own else size for size, own in zip(shape, lifted)]
    return value if wider == [1] * len(wider) else graph.add("Expand", [value, graph.sizes(wider)])


def convolution(graph: Graph, inputs: list[Any], equation: core.JaxprEqn) -> str:
    """ONNX convolves NCHW with OIHW alone."""
    options = equation.params
    image, kernel, out = options["dimension_numbers"]
    pads = np.array(options["padding"])
    if {*options["lhs_dilation"]} != {1} or options["batch_group_count"] != 1 or pads.min() < 0:
        raise ValueError("onnx=True: the client has a transposed convolution, which has no translation")
    x = graph.add("Transpose", [inputs[0]], perm=image)
    w = np.transpose(np.asarray(inputs[1]), kernel) if not isinstance(inputs[1], str) else inputs[1]
    y = graph.add(
        "Conv",
        [x, w],
        strides=options["window_strides"],
        pads=pads.T.ravel().tolist(),
        dilations=options["rhs_dilation"],
        group=options["feature_group_count"],
    )
    return graph.add("Transpose", [y], perm=np.argsort(out).tolist())


def product(graph: Graph, inputs: list[Any], equation: core.JaxprEqn) -> str:
    """Any contraction of two arrays."""
    contracted, batched = equation.params["dimension_numbers"]
    letters = iter(string.ascii_letters)
    left, right = ([""] * variable.aval.ndim for variable in equation.invars)  # type: ignore[union-attr]
    for a, b in (*zip(*batched), *zip(*contracted)):
        left[a] = right[b] = next(letters)
    left, right = ([own or next(letters) for own in side] for side in (left, right))
    shared = [left[a] for a in batched[0]]
    free = [
        letter
        for side, (bound, taken) in zip((left, right), zip(batched, contracted))
        for axis, letter in enumerate(side)
        if axis not in (*bound, *taken)
    ]
    return graph.add("Einsum", inputs, equation=f"{''.join(left)},{''.join(right)}->{''.join(shared + free)}")


def reduced(operator: str) -> Callable[..., str]:
    """What an operator leaves of some axes."""

    def form(graph: Graph, inputs: list[Any], equation: core.JaxprEqn) -> str:
        return graph.add(operator, [inputs[0], np.array(equation.params["axes"], np.int64)], keepdims=0)

    return form


def stacked(graph: Graph, inputs: list[Any], equation: core.JaxprEqn) -> str:
    """Beside each other along a new axis."""
    axis = equation.params["axis"]
    parts = [graph.add("Unsqueeze", [value, np.array([axis], np.int64)]) for value in inputs]
    return graph.add("Concat", parts, axis=axis)


def cast(graph: Graph, value: Any, dtype: Any) -> str:
    """Another type."""
    from onnx import helper

    return graph.add("Cast", [value], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def largest(graph: Graph, inputs: list[Any], equation: core.JaxprEqn) -> str:
    """Where the largest value of an axis is."""
    (axis,) = equation.params["axes"]
    return cast(graph, graph.add("ArgMax", inputs, axis=axis, keepdims=0), equation.params["index_dtype"])


def rounded(graph: Graph, inputs: list[Any], equation: core.JaxprEqn) -> str:
    """Halves to the even neighbour."""
    if equation.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise ValueError("onnx=True: the client rounds halves away from zero, which has no translation")
    return graph.add("Round", inputs)


FORMS: dict[str, Callable[[Graph, list[Any], core.JaxprEqn], str]] = {
    "argmax": largest,
    "broadcast_in_dim": broadcast,
    "concatenate": lambda graph, inputs, equation: graph.add("Concat", inputs, axis=equation.params["dimension"]),
    "conv_general_dilated": convolution,
    "convert_element_type": lambda graph, inputs, equation: cast(graph, inputs[0], equation.params["new_dtype"]),
    "dot_general": product,
    "reduce_max": reduced("ReduceMax"),
    "reduce_sum": reduced("ReduceSum"),
    "reshape": reshaped,
    "round": rounded,
    "squeeze": reshaped,
    "stack": stacked,
    "transpose": lambda graph, inputs, equation: graph.add("Transpose", inputs, perm=equation.params["permutation"]),
}
"""Primitive -> how it is written, where no operator does the same."""
