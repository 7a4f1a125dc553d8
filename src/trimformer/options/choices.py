"""Values that are chosen by name. Importing this costs nothing."""

from typing import Final, Literal

Metric = Literal["mac", "parameters", "latency", "memory"]  # what a budget counts
Backend = Literal["eager", "compile", "onnx", "onnx-int8"]  # what runs a forward pass
AnyBackend = Literal[Backend, "llama.cpp"]  # what runs the model
Phase = Literal["prefill", "decode"]  # of llama.cpp: all tokens of a prompt together, or one token behind them
Format = Literal["onnx", "openvino", "gguf"]  # of exported files, and the name of their folder
Quantization = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]  # of GGUF files

ONNX: tuple[Backend, ...] = ("onnx", "onnx-int8")  # kinds of files that `trimformer prune --export` writes
LLAMA_CPP: Final = "llama.cpp"  # runs GGUF files
OPSETS = range(18, 24)  # of ONNX files
DTYPES = ("float32", "float16", "bfloat16")

NEURON_MULTIPLE = 32  # the default of the "dp" allocation
