"""Convert PyTorch models to stamped TensorRT engines in pinned environments."""

__version__ = "0.1.0"
