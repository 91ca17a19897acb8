"""Writes tests/fixtures/split: DiMBERT's block stream with matrices for each modality, in three readings, with outputs and gradients.

Usage: python split.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

What a file holds and how it is computed is as in grounded.py, which lends its layers and its writer. `V` are positions of the image, `C`
names of its objects, `T` the text; C has the matrices of T. `both.*` is what comes of reading in both directions, `on.*` from left to right:
V and C see V and C, a word also the words before it. Padding is hidden from everyone. The matrices of T are `layers.*`; the others are
`split.*`: one set for each block (modality, query), or three, by who reads whom: V of V, V of T, T of V (pair). Everything is written
position by position, with no product over several of them, so that it shares no layout with what it is compared to.
"""
import pathlib
import sys

import torch
import torch.nn.functional as F

# The source tree is no place for byte code.
sys.dont_write_bytecode = True
from grounded import EPS, HEADS, INNER, LAYERS, WIDTH, Draw, linear, norm, write

IMAGE, CONCEPTS, TEXT = 3, 2, 4
SHOWN = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1, 1, 1, 0]]).bool()
KIND = "VVVLLLLLL"
DEPTH = WIDTH // HEADS


def sees(query, key, on):
    text = IMAGE + CONCEPTS
    return not on or key < text or (query >= text and key <= query)


def attention(w, n, spaces, x, on):
    """x [B, L, D] -> [B, L, D]."""
    own = f"layers.{n}.attention"
    sets = {"modality": {"V": 0}, "query": {"V": 0}, "pair": {"VV": 0, "VL": 1, "LV": 2}}[spaces]
    def apply(layer, place, value):
        return linear(w, f"split.{n}.attention.{sets[place]}.{layer}" if place in sets else f"{own}.{layer}", value)
    places = lambda i, j: {"modality": (KIND[i], KIND[j]), "query": (KIND[j],) * 2, "pair": (KIND[i] + KIND[j],) * 2}[spaces]
    rows = []
    for b in range(len(x)):
        out = []
        for i in range(len(KIND)):
            keys = [j for j in range(len(KIND)) if sees(i, j, on) and SHOWN[b, j]]
            heads = lambda t: t.view(HEADS, DEPTH)
            score, value = {}, {}
            for j in keys:
                reads, read = places(i, j)
                q, k, v = apply("query", reads, x[b, i]), apply("key", read, x[b, j]), apply("value", read, x[b, j])
                score[j], value[j] = (heads(q) * heads(k)).sum(-1) / DEPTH**0.5, heads(v)
            weight = {}
            for group in [[j for j in keys if KIND[j] == kind] for kind in "VL"] if spaces == "query" else [keys]:
                weight |= dict(zip(group, torch.stack([score[j] for j in group]).softmax(0))) if group else {}
            read = {kind: torch.zeros(WIDTH, dtype=x.dtype) for kind in "VL"}
            for j in keys:
                read[KIND[j]] = read[KIND[j]] + (weight[j][:, None] * value[j]).flatten()
            if spaces == "modality":
                out.append(apply("output", KIND[i], read["V"] + read["L"]))
            else:
                out.append(sum(apply("output", {"query": kind, "pair": KIND[i] + kind}[spaces], read[kind]) for kind in "VL"))
        rows.append(torch.stack(out))
    return torch.stack(rows)


def stream(w, spaces, separate, x, on):
    for n in range(LAYERS):
        x = norm(w, f"layers.{n}.attention_norm", x + attention(w, n, spaces, x, on))
        fed = []
        for i, kind in enumerate(KIND):
            layer = f"split.{n}.feed_forward.0" if separate and kind == "V" else f"layers.{n}.feed_forward"
            fed.append(linear(w, f"{layer}.outer", F.gelu(linear(w, f"{layer}.inner", x[:, i]))))
        x = norm(w, f"layers.{n}.feed_forward_norm", x + torch.stack(fed, 1))
    return x


def write_one(path, seed, spaces, separate):
    draw = Draw(seed)
    w = draw.layers()
    for n in range(LAYERS):
        for at in range({"modality": 1, "query": 1, "pair": 3}[spaces]):
            for layer in ["query", "key", "value", "output"]:
                # What is added to the output of another attention has no bias.
                bias = layer != "output" or spaces == "modality" or (spaces == "pair" and at == 0)
                w |= draw.linear(f"split.{n}.attention.{at}.{layer}", WIDTH, WIDTH, bias)
        if separate:
            w |= draw.linear(f"split.{n}.feed_forward.0.inner", WIDTH, INNER)
            w |= draw.linear(f"split.{n}.feed_forward.0.outer", INNER, WIDTH)
    x = {"V": draw(2, IMAGE, WIDTH), "C": draw(2, CONCEPTS, WIDTH), "T": draw(2, TEXT, WIDTH)}
    x |= draw.factors(wv=(2, IMAGE, WIDTH), wt=(2, TEXT, WIDTH))
    shown = dict(zip(["image", "concepts", "text"], SHOWN.split([IMAGE, CONCEPTS, TEXT], 1)))
    masks = {f"{name}_visible": mask for name, mask in shown.items()}
    outputs, scalars = {}, {}
    for prefix, on in {"both.": False, "on.": True}.items():
        out = stream(w, spaces, separate, torch.cat([x["V"], x["C"], x["T"]], 1), on)
        v, _, t = out.split([IMAGE, CONCEPTS, TEXT], 1)
        scalar = (v * x["wv"])[shown["image"]].sum() + (t * x["wt"])[shown["text"]].sum()
        outputs |= {f"{prefix}v": v, f"{prefix}t": t, f"{prefix}scalar": scalar}
        scalars[prefix] = scalar
    of = dict(heads=HEADS, layers=LAYERS, eps=EPS, spaces=spaces, feed_forward="separate" if separate else "shared")
    write(path, x | masks | w, outputs, scalars, scalar="sum over visible v * wv + sum over visible t * wt", **of)


def main():
    out = pathlib.Path(sys.argv[1])
    write_one(out / "modality.safetensors", 1, "modality", False)
    write_one(out / "separate.safetensors", 2, "modality", True)
    write_one(out / "pair.safetensors", 3, "pair", False)
    write_one(out / "query.safetensors", 4, "query", False)
    print(sum(file.stat().st_size for file in out.glob("*.safetensors")), "bytes")


if __name__ == "__main__":
    main()
