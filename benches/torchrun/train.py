"""A training loop as torchrun's documentation asks for: DDP over Gloo, a checkpoint every 20 steps, resume from it.

torchrun restarts all workers when one dies; each then loads the last checkpoint and goes on from it. Every worker says which
process it is, and rank 0 says each committed step with its time, one JSON object a line.
"""
import argparse
import json
import os
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

WIDTH, LATENT = 16, 16


def autoencoder():
    """3 x 16 x 16 -> 16 -> 3 x 16 x 16, some fifty thousand parameters."""
    return nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, padding=1), nn.ELU(), nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1), nn.ELU(),
        nn.Flatten(), nn.Linear(WIDTH * 64, LATENT), nn.Linear(LATENT, WIDTH * 64), nn.Unflatten(1, (WIDTH, 8, 8)),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ELU(), nn.Upsample(scale_factor=2),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ELU(), nn.Conv2d(WIDTH, 3, 3, padding=1))


def say(**what):
    # In one piece: all workers share one pipe.
    os.write(1, (json.dumps({"time": time.time(), **what}) + "\n").encode())


def save(path, model, adam, step):
    """Aside and renamed, so that a checkpoint with its name is whole."""
    aside = f"{path}.{os.getpid()}"
    torch.save({"model": model.state_dict(), "adam": adam.state_dict(), "step": step}, aside)
    os.replace(aside, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=6, help="images a worker")
    a = parser.parse_args()
    torch.set_num_threads(1)
    rank, restart = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    say(rank=rank, pid=os.getpid(), restart=restart)
    dist.init_process_group("gloo")
    torch.manual_seed(1)
    bare = autoencoder()
    adam = torch.optim.Adam(bare.parameters(), lr=1e-4)
    first = 0
    if os.path.exists(a.checkpoint):
        found = torch.load(a.checkpoint, map_location="cpu")
        bare.load_state_dict(found["model"])
        adam.load_state_dict(found["adam"])
        first = found["step"]
    model = DistributedDataParallel(bare)
    if rank == 0:
        say(rank=rank, restart=restart, parameters=sum(p.numel() for p in bare.parameters()), resumed=first)
    for step in range(first, a.steps):
        images = torch.rand(a.batch, 3, 16, 16, generator=torch.Generator().manual_seed(step * dist.get_world_size() + rank))
        adam.zero_grad()
        loss = (model(images) - images).abs().mean()
        loss.backward()
        adam.step()
        if rank == 0:
            say(step=step, restart=restart, loss=loss.item())
            if (step + 1) % a.every == 0:
                save(a.checkpoint, bare, adam, step + 1)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
