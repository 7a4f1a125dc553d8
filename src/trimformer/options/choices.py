"""Values that are chosen by name. Importing this costs nothing."""

from typing import Literal

Metric = Literal["mac", "parameters", "latency"]  # what a budget counts
Backend = Literal["eager", "compile", "onnx", "onnx-int8"]  # what runs the model
Format = Literal["onnx", "openvino"]  # of exported files, and the name of their folder

ONNX: tuple[Backend, ...] = ("onnx", "onnx-int8")  # kinds of files that `trimformer prune --export` writes
OPSETS = range(18, 24)  # of ONNX files
DTYPES = ("float32", "float16", "bfloat16")

NEURON_MULTIPLE = 32  # the default of the "dp" allocation
