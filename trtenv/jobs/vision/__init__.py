"""From images to tensors and back: the three tasks' pre- and post-processing. Python 3.6 to 3.13, NumPy and Pillow."""
