"""What the three training scripts share: train and save, or only measure with --evaluate."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn


def run(
    model: Callable[[], nn.Module],
    weights: Path,
    train: Callable[[], nn.Module],
    evaluate: Callable[[nn.Module], None],
) -> None:
    if "--evaluate" in sys.argv:
        network = model()
        network.load_state_dict(load_file(weights))
    else:
        started = time.perf_counter()
        network = train()
        print(f"trained in {time.perf_counter() - started:.0f} s")
        save_file(network.state_dict(), weights)
    evaluate(network)
