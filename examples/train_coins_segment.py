"""Trains coins_segment.py on the left part of scikit-image's photograph of coins.

Run as ``python examples/train_coins_segment.py``; prints the overlap on the held-out right part.
With ``--evaluate`` the weights on disk are measured and nothing is written.
"""

from pathlib import Path

import coins_segment
import numpy as np
import torch
import training
from coins_data import Crops, as_input, held_out_part
from torch.nn import functional

HERE = Path(__file__).parent
WEIGHTS = HERE / "coins_segment.safetensors"


def train(steps: int = 300, batch: int = 8) -> torch.nn.Module:
    torch.manual_seed(0)
    crops = Crops(128, seed=1)
    network = coins_segment.model().train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.006, steps)
    for step in range(steps):
        images, coins = crops.batch(batch)
        loss = functional.cross_entropy(network(images), torch.from_numpy(coins > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)
    return network.eval()


def mask_of(network: torch.nn.Module, photo: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(as_input(photo))[0].argmax(0).numpy() == 1


def overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    return (found & wanted).sum() / (found | wanted).sum()


def evaluate(network: torch.nn.Module) -> None:
    photo, coins = held_out_part()
    found, wanted = mask_of(network, photo), coins > 0
    print(
        f"held out, {photo.shape[1]}x{photo.shape[0]}: IoU of coin {overlap(found, wanted):.3f}, "
        f"pixels right {(found == wanted).mean():.3f}"
    )


def main() -> None:
    torch.set_num_threads(1)
    training.run(coins_segment.model, WEIGHTS, train, evaluate)


if __name__ == "__main__":
    main()
