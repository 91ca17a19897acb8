"""Writes tests/fixtures/stem: an image encoder that begins with convolutions (Xiao et al. 2021), at toy size, with gradients.

Usage: python stem.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

What a file holds and how it is computed is as in grounded.py, which lends its writer. The convolutions are PyTorch's own: 3x3, stride 2,
one row and column of zeros around the image. Their kernels are stored as our matrices, `[9 I, O]` by place and then by channel. The
norm over the channels of a place stands where the paper has batch normalisation. `state` is that after the last norm; the
gradient is that of `scalar`, the sum of `state * w`.
"""
import pathlib
import sys

import torch
import torch.nn.functional as F

# The source tree is no place for byte code.
sys.dont_write_bytecode = True
from grounded import EPS, HEADS, INNER, LAYERS, MARGIN, WIDTH, Draw, linear, norm, write

SIDE, CHANNELS = 8, [4, 6]
PATCH = 2 ** len(CHANNELS)


def weights(draw):
    w, inputs = {}, 3
    for n, outputs in enumerate(CHANNELS):
        w |= draw.linear(f"stem.convolutions.{n}.kernel", 9 * inputs, outputs, bias=False)
        w |= draw.norm(f"stem.convolutions.{n}.norm", outputs)
        inputs = outputs
    w |= draw.linear("patch_embedding", inputs, WIDTH)
    w |= {"class_embedding": draw(WIDTH), "position_embedding": draw(1 + (SIDE // PATCH) ** 2, WIDTH)}
    return w | draw.layers() | draw.norm("post_norm")


def patches(w, x):
    """[B, 3, S, S] -> [B, G G, D]."""
    for n in range(len(CHANNELS)):
        kernel = w[f"stem.convolutions.{n}.kernel.weight"].unflatten(0, (3, 3, -1)).permute(3, 2, 0, 1)
        x = F.conv2d(x, kernel, stride=2, padding=1)
        x = norm(w, f"stem.convolutions.{n}.norm", x.permute(0, 2, 3, 1))
        assert x.abs().min() >= MARGIN, "a ReLU is not clear"
        x = F.relu(x).permute(0, 3, 1, 2)
    kernel = w["patch_embedding.weight"].T[..., None, None]
    return F.conv2d(x, kernel, w["patch_embedding.bias"]).flatten(2).mT


def state(w, pixels):
    x = patches(w, pixels)
    x = torch.cat([w["class_embedding"].expand(len(x), 1, -1), x], 1) + w["position_embedding"]
    split = lambda t: t.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    for i in range(LAYERS):
        y = norm(w, f"layers.{i}.attention_norm", x)
        q, k, v = (split(linear(w, f"layers.{i}.attention.{name}", y)) for name in ["query", "key", "value"])
        attended = ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(w, f"layers.{i}.attention.output", attended)
        y = F.gelu(linear(w, f"layers.{i}.feed_forward.inner", norm(w, f"layers.{i}.feed_forward_norm", x)))
        x = x + linear(w, f"layers.{i}.feed_forward.outer", y)
    return norm(w, "post_norm", x)


def main():
    draw = Draw(int(sys.argv[2]) if len(sys.argv) > 2 else 3)
    w, pixels = weights(draw), draw(2, 3, SIDE, SIDE)
    out = state(w, pixels)
    factors = draw.factors(w=tuple(out.shape))
    scalar = (out * factors["w"]).sum()
    x = {f"image.{name}": value for name, value in w.items()} | {"pixels": pixels} | factors
    outputs = {"state": out, "scalar": scalar}
    path = pathlib.Path(sys.argv[1]) / "stem.safetensors"
    write(path, x, outputs, {"": scalar}, scalar="sum(state * w)", heads=HEADS, inner=INNER, eps=EPS)
    print(path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
