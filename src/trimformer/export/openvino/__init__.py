"""Files for OpenVINO, of the graphs for ONNX Runtime: float32, and eight bits by NNCF."""
