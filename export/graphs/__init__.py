"""ONNX graphs: read, written, tidied, taken apart."""
