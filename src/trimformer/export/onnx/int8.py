"""Int8 quantization: matrices per column, embedding tables per block, activations dynamically per tensor."""

import numpy as np
import onnx_ir as ir

from trimformer.export.onnx.graph import Array, add_constant, add_node, constant, remove_unused, replace

# Smallest number of weights of a matrix or table that is quantized.
_MIN_SIZE = 256

# Largest quantized weight: CPUs without VNNI add two int8 products in 16 bits, which larger weights overflow.
_LARGEST = 64

_ORT = "com.microsoft"

_INT8 = ("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLinear", "QuantizeLinear",
         "DequantizeLinear", "GatherBlockQuantized")  # fmt: skip


def is_quantized(model: ir.Model) -> bool:
    """Returns whether a graph contains int8 operators."""
    return any(node.op_type in _INT8 for node in model.graph)


def quantize_weights(model: ir.Model) -> int:
    """Quantizes the weights of matrix products and embedding tables in place; returns their number."""
    count = _quantize_products(model.graph) + _quantize_tables(model.graph)
    remove_unused(model.graph)
    if count:
        model.opset_imports.setdefault(_ORT, 1)
    return count


def _quantize_products(graph: ir.Graph) -> int:
    """Quantizes matrix products with constant weights; returns their number."""
    count = 0
    inputs: dict[ir.Value, ir.Node] = {}  # an input of several matrices is quantized once
    for node in [node for node in graph if node.op_type == "MatMul"]:
        source, name, weight = node.inputs[0], node.inputs[1], constant(node.inputs[1])
        if source is None or name is None or weight is None or weight.ndim != 2:
            continue
        if weight.size < _MIN_SIZE or weight.dtype != np.float32:
            continue
        if source not in inputs:
            inputs[source] = add_node(node, "DynamicQuantizeLinear", [source], outputs=3)
        values, scale, zero = inputs[source].outputs
        scales = np.maximum(np.abs(weight).max(axis=0), 1e-12) / np.float32(_LARGEST)
        rounded = add_constant(graph, f"{name.name}_int8", np.rint(weight / scales).astype(np.int8))
        columns = add_constant(graph, f"{name.name}_scale", scales)
        add = _bias_after(node, weight.shape[1])
        last = node.outputs[0] if add is None else add[0].outputs[0]
        bias = None if add is None else add[1]
        product = add_node(
            node, "MatMulIntegerToFloat", [values, rounded, scale, columns, zero, None, bias], like=last, domain=_ORT
        )
        replace(last, product.outputs[0])
        count += 1
    return count


def _bias_after(node: ir.Node, width: int) -> tuple[ir.Node, ir.Value] | None:
    """Returns the node that adds a bias to a product, and the bias; None if the product has other uses."""
    output = node.outputs[0]
    if len(output.uses()) != 1 or output.is_graph_output():
        return None
    use = next(iter(output.uses()))
    other = use.node.inputs[1 - use.idx] if use.node.op_type == "Add" else None
    row = constant(other)
    return (use.node, other) if other is not None and row is not None and row.shape == (width,) else None


def _quantize_tables(graph: ir.Graph) -> int:
    """Quantizes embedding tables; returns their number."""
    count = 0
    for node in [node for node in graph if node.op_type == "Gather"]:
        name, table = node.inputs[0], constant(node.inputs[0])
        if name is None or table is None or table.ndim != 2 or table.dtype != np.float32 or table.size < _MIN_SIZE:
            continue
        size = next((size for size in (128, 64, 32, 16) if table.shape[1] % size == 0), 0)
        if not size or node.attributes.get_int("axis", 0) != 0:
            continue
        values, scales = _by_block(table, size)
        inputs = [add_constant(graph, f"{name.name}_uint8", values), node.inputs[1],
                  add_constant(graph, f"{name.name}_scale", scales)]  # fmt: skip
        attributes = {"bits": 8, "block_size": size, "gather_axis": 0, "quantize_axis": 1}
        rows = add_node(node, "GatherBlockQuantized", inputs, like=node.outputs[0], domain=_ORT, attributes=attributes)
        replace(node.outputs[0], rows.outputs[0])
        count += 1
    return count


def _by_block(table: Array, size: int) -> tuple[Array, Array]:
    """Returns (values with zero point 128, scale of each block of a row)."""
    blocks = table.reshape(len(table), -1, size)
    scales = np.maximum(np.abs(blocks).max(axis=2), 1e-12) / np.float32(127)
    values = np.rint(blocks / scales[..., None]) + 128
    return values.astype(np.uint8).reshape(table.shape), scales
