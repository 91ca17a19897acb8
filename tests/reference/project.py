"""Writes tests/fixtures/project: two views of 8 x 8 pixels as cells around an agent, a map that fuses them, and what lies around the agent.

Usage: python project.py OUT_DIR      (pip install torch safetensors; written with PyTorch 2.15)
The geometry of WS-MGMap (arXiv 2210.07506, section 3.1) in float64: pixels by their depth to cells, the greatest feature of a cell; turned by minus the
compass and moved by the place with grid_sample (align_corners=False), fused by the greatest value; back for the map around the agent.
"""
import math
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1])
OUT.mkdir(parents=True, exist_ok=True)
SIDE, FEATURES, CELLS, WORLD, CELL = 8, 3, 12, 24, 0.25
LOW, HIGH, RANGE = -1.5, 0.1, 10.0
torch.manual_seed(3)


def project(depth, features):
    """[H, W] and [H, W, F] to [F, M, M]."""
    focal = SIDE / 2 / math.tan(math.radians(90) / 2)
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    right = (column + 0.5 - SIDE / 2) / focal * depth
    up = (SIDE / 2 - row - 0.5) / focal * depth
    x = torch.round(right / CELL + (CELLS - 1) / 2).long()
    y = torch.round(-depth / CELL + (CELLS - 1) / 2).long()
    valid = (depth > 0) & (depth <= RANGE) & (up > LOW) & (up < HIGH) & (x >= 0) & (x < CELLS) & (y >= 0) & (y < CELLS)
    cells = torch.zeros(FEATURES, CELLS * CELLS, dtype=torch.float64)
    at = (y * CELLS + x)[valid].expand(FEATURES, -1)
    cells.scatter_reduce_(1, at, features[valid].T, reduce="amax")
    return cells.view(FEATURES, CELLS, CELLS)


def moved(image, theta):
    theta = torch.tensor([theta], dtype=torch.float64)
    grid = F.affine_grid(theta, [1, *image.shape], align_corners=False)
    return F.grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]


def turned(image, by):
    cos, sin = math.cos(by), math.sin(by)
    return moved(image, [[cos, -sin, 0], [sin, cos, 0]])


def shift(pose, whole):
    right, down = pose[0] / CELL, -pose[1] / CELL
    return (round(right), round(down)) if whole else (right, down)


def fused(world, cells, pose, whole):
    large = torch.zeros_like(world)
    first = (WORLD - CELLS) // 2
    large[:, first:first + CELLS, first:first + CELLS] = turned(cells, pose[2])
    right, down = shift(pose, whole)
    return torch.maximum(world, moved(large, [[1, 0, -right / (WORLD / 2)], [0, 1, -down / (WORLD / 2)]]))


def around(world, pose, whole):
    right, down = shift(pose, whole)
    there = moved(world, [[1, 0, right / (WORLD / 2)], [0, 1, down / (WORLD / 2)]])
    first = (WORLD - CELLS) // 2
    return turned(there[:, first:first + CELLS, first:first + CELLS], -pose[2])


depth = 0.3 + 2.5 * torch.rand(2, SIDE, SIDE, dtype=torch.float64).float().double()
depth[0, 4, 3] = 0.0
depth[1, 5, 5] = 11.0
features = torch.rand(2, SIDE, SIDE, FEATURES, dtype=torch.float64).float().double()
# x to the right and y ahead in metres, the heading to the left in radians; the second has gone on, turned and left the middle.
poses = [[0.0, 0.0, math.radians(15)], [0.4, 0.65, math.radians(-75)]]
tensors = {"depth": depth.float(), "features": features.float(), "poses": torch.tensor(poses, dtype=torch.float64)}
for name, whole in [("whole", True), ("bilinear", False)]:
    world = torch.zeros(FEATURES, WORLD, WORLD, dtype=torch.float64)
    for at, pose in enumerate(poses):
        cells = project(depth[at], features[at])
        tensors[f"cells.{at}"] = cells.permute(1, 2, 0).float().contiguous()
        world = fused(world, cells, pose, whole)
        tensors[f"{name}.world.{at}"] = world.permute(1, 2, 0).float().contiguous()
        tensors[f"{name}.around.{at}"] = around(world, pose, whole).permute(1, 2, 0).float().contiguous()
save_file(tensors, OUT / "io.safetensors")
