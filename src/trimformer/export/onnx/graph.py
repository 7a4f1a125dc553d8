"""Rewrites an exported graph to an equivalent one that ONNX Runtime runs faster.

The rewrites match operators, never names, so they apply to layers of different widths, sublayers without units and
any task head.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, np.dtype[Any]]

# Operators that compute each token independently, and the inputs that hold tokens.
_PER_TOKEN = {
    "LayerNormalization": (0,), "Gelu": (0,), "Relu": (0,), "Tanh": (0,), "MatMul": (0,),
    "Add": (0, 1), "Sub": (0, 1), "Mul": (0, 1), "Attention": (0,), "MultiHeadAttention": (0,),
}  # fmt: skip

# The input of an attention that is added to its scores.
_MASK = {"Attention": 3, "MultiHeadAttention": 5}


def optimize(model: ir.Model) -> None:
    """Applies all rewrites in place."""
    for rewrite in (_drop_reshapes, _drop_expands, _fold_rows, _fold_shifts, _select_early, _add_before_norms):
        rewrite(model.graph)
        remove_unused(model.graph)


def constant(value: ir.Value | None) -> Array | None:
    """Returns a constant as an array; None if the value is not constant."""
    if value is None:
        return None
    tensor = value.const_value
    if tensor is None and (node := value.producer()) is not None and node.op_type == "Constant":
        tensor = node.attributes["value"].as_tensor()
    return None if tensor is None else tensor.numpy()


def add_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Adds a constant to the graph; `name` is made unique."""
    unique, count = name, 0
    while unique in graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    tensor = ir.tensor(np.ascontiguousarray(array), name=unique)
    value = ir.Value(name=unique, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def add_node(
    before: ir.Node,
    operator: str,
    inputs: list[ir.Value | None],
    *,
    like: ir.Value | None = None,
    outputs: int = 1,
    domain: str = "",
    attributes: dict[str, Any] | None = None,
) -> ir.Node:
    """Inserts a node before another; its first output has the shape and type of `like`."""
    node = ir.node(operator, inputs, attributes=attributes, domain=domain, num_outputs=outputs)
    if like is not None:
        node.outputs[0].shape, node.outputs[0].type = like.shape, like.type
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(before, node)
    return node


def replace(old: ir.Value, new: ir.Value) -> None:
    """Replaces a value in all its uses; an output of the graph keeps its name."""
    name, is_output = old.name, old.is_graph_output()
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if is_output:
        old.name, new.name = f"{name}_before", name


def remove_unused(graph: ir.Graph) -> None:
    """Removes nodes and constants that no output depends on."""
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _of(graph: ir.Graph, *operators: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type in operators]


def _producer(value: ir.Value | None, *operators: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in operators else None


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    return a.shape is not None and b.shape is not None and a.shape == b.shape and None not in _dims(a)


def _dims(value: ir.Value) -> list[Any]:
    return [d if isinstance(d, int) else d.value for d in value.shape or ()]


def _is_used_once(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _drop_reshapes(graph: ir.Graph) -> None:
    """Merges consecutive reshapes and removes those that keep the shape."""
    for node in _of(graph, "Reshape"):
        source = node.inputs[0]
        while (before := _producer(source, "Reshape")) is not None:
            source = before.inputs[0]
        assert source is not None
        output = node.outputs[0]
        if _same_shape(source, output) and not (output.is_graph_output() and source.is_graph_input()):
            replace(output, source)
        else:
            node.replace_input_with(0, source)


def _drop_expands(graph: ir.Graph) -> None:
    """Removes the expansion of an addend; the addition broadcasts it."""
    for node in _of(graph, "Add"):
        for i in (0, 1):
            expand, other, output = _producer(node.inputs[i], "Expand"), node.inputs[1 - i], node.outputs[0]
            if expand is not None and other is not None and _same_shape(other, output):
                node.replace_input_with(i, expand.inputs[0])


def _constant_operand(node: ir.Node) -> tuple[ir.Value, Array] | None:
    """Returns (value, row) of a node that adds one constant row [hidden] to every token of a value."""
    for i in (0, 1):
        row, value = constant(node.inputs[i]), node.inputs[1 - i]
        if row is not None and row.ndim == 1 and row.size > 1 and value is not None:
            return value, row
    return None


def _fold_rows(graph: ir.Graph) -> None:
    """Folds a constant row that is added to embeddings into the embedding table."""
    for node in _of(graph, "Add"):
        operand = _constant_operand(node)
        gather = _producer(operand[0], "Gather") if operand else None
        if operand is None or gather is None or not _is_used_once(operand[0]):
            continue
        table = constant(gather.inputs[0])
        if table is not None and table.ndim == 2 and gather.attributes.get_int("axis", 0) == 0:
            name = gather.inputs[0].name or "table"  # type: ignore[union-attr]
            gather.replace_input_with(0, add_constant(graph, name, table + operand[1]))
            replace(node.outputs[0], gather.outputs[0])


def _fold_shifts(graph: ir.Graph) -> None:
    """Folds a constant row that is added to the only use of a norm into the norm's bias."""
    for node in _of(graph, "Add"):
        operand = _constant_operand(node)
        norm = _producer(operand[0], "LayerNormalization") if operand else None
        if operand is None or norm is None or not _is_used_once(operand[0]) or len(norm.inputs) < 3:
            continue
        shift = constant(norm.inputs[2])
        if shift is not None:
            norm.replace_input_with(2, add_constant(graph, norm.inputs[2].name or "shift", shift + operand[1]))  # type: ignore[union-attr]
            replace(node.outputs[0], norm.outputs[0])


def _select_early(graph: ir.Graph) -> None:
    """Computes only the first token of a layer's output where no other is read."""
    for node in _of(graph, "Gather"):
        index, source = constant(node.inputs[1]), node.inputs[0]
        if index is None or index.shape != () or node.attributes.get_int("axis", 0) != 1 or source is None:
            continue
        if len(_dims(source)) != 3 or constant(source) is not None or source.producer() is None or int(index) != 0:
            continue
        first = _First(node)(source)
        chosen = add_node(node, "Gather", [first, node.inputs[1]], like=node.outputs[0], attributes={"axis": 1})
        replace(node.outputs[0], chosen.outputs[0])


class _First:
    """Recomputes values [batch, 1, hidden] for the first token only.

    Args:
        select: node that reads only the first token.
    """

    def __init__(self, select: ir.Node) -> None:
        graph = select.graph
        assert isinstance(graph, ir.Graph)
        self._zero = add_constant(graph, "first", np.array([0]))
        self._narrow: set[ir.Node] = set()  # nodes of which only the first token is read
        self._cache: dict[ir.Value, ir.Value] = {}
        for node in reversed(list(graph)):
            if all(self._reads_first(use, select) for use in node.outputs[0].uses()) and self._is_per_token(node):
                self._narrow.add(node)

    def _reads_first(self, use: Any, select: ir.Node) -> bool:
        if use.node is select:
            return True
        return use.node in self._narrow and use.idx in _PER_TOKEN[use.node.op_type]

    def __call__(self, value: ir.Value) -> ir.Value:
        if value not in self._cache:
            node = value.producer()
            self._cache[value] = self._recompute(node, value) if node in self._narrow else self._cut(value)
        return self._cache[value]

    def _recompute(self, node: ir.Node, value: ir.Value) -> ir.Value:
        """Adds a copy of a node that computes the first token only."""
        inputs = list(node.inputs)
        for i in _PER_TOKEN[node.op_type]:
            operand = inputs[i]
            if operand is not None and len(_dims(operand)) == 3 and constant(operand) is None:
                inputs[i] = self(operand)
        mask = _MASK.get(node.op_type, len(inputs))
        if mask < len(inputs) and (scores := inputs[mask]) is not None:  # one row per query
            inputs[mask] = self._cut(scores, 2)
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        copy = add_node(node, node.op_type, inputs, domain=node.domain, attributes=attributes)
        self._shape(copy.outputs[0], value)
        return copy.outputs[0]

    def _cut(self, value: ir.Value, axis: int = 1) -> ir.Value:
        maker = value.producer()
        assert maker is not None
        node = ir.node("Gather", [value, self._zero], attributes={"axis": axis})
        assert isinstance(maker.graph, ir.Graph)
        maker.graph.insert_after(maker, node)
        self._shape(node.outputs[0], value, axis)
        return node.outputs[0]

    def _shape(self, new: ir.Value, old: ir.Value, axis: int = 1) -> None:
        assert old.shape is not None
        new.shape, new.type = ir.Shape([1 if i == axis else dim for i, dim in enumerate(old.shape)]), old.type

    def _is_per_token(self, node: ir.Node) -> bool:
        value = node.outputs[0]
        if node.op_type not in _PER_TOKEN or len(node.outputs) != 1 or len(_dims(value)) != 3:
            return False
        if value.is_graph_output():
            return False
        for i in _PER_TOKEN[node.op_type]:
            operand = node.inputs[i]
            row = constant(operand)
            if row is not None and row.ndim > 1:
                return False
            if row is None and (operand is None or operand.producer() is None):
                return False
            if row is None and operand is not None and _dims(operand)[:2] != _dims(value)[:2]:
                return False
        if node.op_type == "MatMul":
            weight = constant(node.inputs[1])
            return weight is not None and weight.ndim == 2
        if node.op_type == "LayerNormalization":
            return node.attributes.get_int("axis", -1) in (-1, 2)
        return not {"is_causal", "unidirectional"} & set(node.attributes)


def _add_before_norms(graph: ir.Graph) -> None:
    """Replaces `Add` before a norm by `Sum`.

    ONNX Runtime fuses `Add` and norm into SkipLayerNormalization, which is several times slower on CPUs.
    """
    for node in _of(graph, "LayerNormalization"):
        add = _producer(node.inputs[0], "Add")
        if add is not None:
            total = add_node(add, "Sum", list(add.inputs), like=add.outputs[0])
            replace(add.outputs[0], total.outputs[0])
