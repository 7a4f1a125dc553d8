"""Files for runtimes without PyTorch: ONNX, in float32 and eight bits."""
