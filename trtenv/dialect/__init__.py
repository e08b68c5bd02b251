"""Knowledge of TensorRT versions: data files, and the pure functions that read them."""
