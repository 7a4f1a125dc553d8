"""Exports models to OpenVINO from their ONNX graphs: in float32, and in int8 by NNCF."""
