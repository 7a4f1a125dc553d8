"""What can be chosen by name, and what holds where nothing is chosen; importing this costs nothing."""

from typing import Literal

Metric = Literal["mac", "parameters", "latency"]  # what a budget is counted in
Backend = Literal["eager", "compile", "onnx", "onnx-int8"]  # what runs a model
Format = Literal["onnx", "openvino"]  # of exported files, and the folder they lie in

ONNX: tuple[Backend, ...] = ("onnx", "onnx-int8")  # the files of `trimformer export`
OPSETS = range(18, 24)  # of these files
DTYPES = ("float32", "float16", "bfloat16")

NEURON_MULTIPLE = 32  # where "dp" allocates
