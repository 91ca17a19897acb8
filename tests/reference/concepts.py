"""Writes tests/fixtures/concepts: MVP's losses and joint encoder at toy size, with outputs and gradients.

Usage: python concepts.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

What a file holds and how it is computed is as in grounded.py, which lends its layers and its writer. Where a text or an image has
a hard or a likely partner, row i is text i in `hard_images` and `image_probability`, and image i in `hard_texts` and
`text_probability`.
"""
import math
import pathlib
import sys

import torch
import torch.nn.functional as F

# The source tree is no place for byte code.
sys.dont_write_bytecode = True
from grounded import EPS, HEADS, LAYERS, MARGIN, Draw, clear, head, layers, leaf, linear, write

HINGE = 0.2


def unit(x):
    return x / x.square().sum(-1, keepdim=True).sqrt()


def score(phrases, regions, phrases_visible, regions_visible, pick):
    """Mean over a sample's phrases of the cosine with the region of rank `pick` (0 = best): [B], and [B, P] before the mean."""
    cosine = unit(phrases) @ unit(regions).mT
    cosine = cosine.masked_fill(~regions_visible[:, None], -torch.inf)
    clear(cosine[phrases_visible], 3)
    of_phrases = cosine.sort(-1, descending=True).values.gather(-1, pick[..., None])[..., 0]
    count = phrases_visible.sum(-1)
    # A sample without phrases scores 0 and is left out of the loss.
    return (of_phrases * phrases_visible).sum(-1) / count.clamp(min=1), of_phrases


def grounding(x, pick_own, pick_other):
    """The loss over the samples that have phrases, and what led to it."""
    shown = x["phrases_visible"]
    own, best_own = score(x["phrases_own"], x["regions_own"], shown, x["regions_own_visible"], pick_own)
    other, best_other = score(x["phrases_other"], x["regions_other"], shown, x["regions_other_visible"], pick_other)
    grounded = shown.any(-1)
    excess = (HINGE + other - own)[grounded]
    assert excess.abs().min() >= 10 * MARGIN
    assert (excess > 0).sum() == 2 and (excess < 0).sum() == 1
    loss = excess.relu().mean()
    # c of a padded phrase means nothing.
    best = {"c_own": best_own.masked_fill(~shown, 0), "c_other": best_other.masked_fill(~shown, 0)}
    return {"loss": loss, "s_own": own, "s_other": other} | best


def write_grounding(path):
    draw = Draw(11)
    shown = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]]).bool()
    own_shown = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    other_shown = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0]]).bool()
    phrases = draw.noise(4, 3, 8)
    own = draw.noise(4, 6, 8)
    # Sample 3 is grounded well, twice per phrase, so that the second best region will do too.
    own[3] = phrases[3].repeat(2, 1) + 0.4 * draw.noise(6, 8)
    # A hidden region would be the best of all.
    own[1, 5] = 2 * phrases[1, 0] + 0.1 * draw.noise(8)
    x = {
        "phrases_own": leaf(phrases),
        "phrases_other": leaf(phrases + 0.5 * draw.noise(4, 3, 8)),
        "phrases_visible": shown,
        "regions_own": leaf(own),
        "regions_other": draw(4, 6, 8),
        "regions_own_visible": own_shown,
        "regions_other_visible": other_shown,
        "top3.pick_own": torch.tensor([[0, 2, 1], [1, 0, 2], [0, 1, 2], [0, 1, 1]]),
        "top3.pick_other": torch.tensor([[1, 0, 0], [0, 2, 1], [2, 0, 1], [2, 1, 0]]),
    }
    first = torch.zeros_like(x["top3.pick_own"])
    best, among = grounding(x, first, first), grounding(x, x["top3.pick_own"], x["top3.pick_other"])
    outputs = best | {f"top3.{name}": t for name, t in among.items()}
    write(path, x, outputs, {"": best["loss"], "top3.": among["loss"]}, margin=HINGE, scalar="loss")


def write_semantic(path):
    draw = Draw(12)
    # A common part keeps softmax at this scale away from 0 and 1.
    common = draw.noise(8)
    x = {"texts": leaf(common + 0.7 * draw.noise(5, 8)), "images": leaf(common + 0.7 * draw.noise(5, 8))}
    x |= {"s": leaf(torch.tensor([math.log(1 / 0.07)], dtype=torch.float64))}
    # The projections are alike, so that a text and an image still have something in common.
    alike = draw.noise(8, 8) * 8**-0.5
    for name in ["text", "image"]:
        x[f"{name}.weight"] = leaf(alike + 0.1 * draw.noise(8, 8))
    similarity = unit(linear(x, "text", x["texts"])) @ unit(linear(x, "image", x["images"])).T * x["s"].exp()
    assert max(similarity.softmax(0).max(), similarity.softmax(1).max()) < 0.98
    labels = torch.arange(5)
    loss = (F.cross_entropy(similarity, labels) + F.cross_entropy(similarity.T, labels)) / 2
    others = similarity.masked_fill(torch.eye(5).bool(), -torch.inf)
    clear(others)
    clear(others.T)
    outputs = {
        "similarity": similarity,
        "loss": loss,
        "hard_images": others.argmax(1),
        "hard_texts": others.argmax(0),
        "image_probability": others.softmax(1),
        "text_probability": others.T.softmax(1),
    }
    write(path, x, outputs, {"": loss}, scalar="loss")


def write_joint(path):
    draw = Draw(13)
    lengths, dropped = [6, 5], 3
    text_shown = torch.arange(6) < torch.tensor(lengths)[:, None]
    x = {"text_out": draw(2, 6, 8), "vis_out": draw(2, 7, 8), "text_visible": text_shown}
    x |= draw.factors(w_text=(2, 6, 8), w_image=(2, 4, 8), w_pooled=(2, 8))
    x |= draw.layers() | draw.linear("pooler", 8, 8)
    sequence = torch.cat([x["text_out"], x["vis_out"][:, dropped:]], 1)
    shown = torch.cat([text_shown, torch.ones(2, 4).bool()], 1)
    text, image = layers(x, sequence, shown[:, None].expand(-1, 10, -1)).split([6, 4], 1)
    pooled = linear(x, "pooler", text[:, 0]).tanh()
    assert pooled.abs().max() < 0.99
    scalar = (text * x["w_text"])[text_shown].sum() + (image * x["w_image"]).sum() + (pooled * x["w_pooled"]).sum()
    outputs = {"text": text, "image": image, "pooled": pooled, "scalar": scalar}
    said = "sum over visible text * w_text + sum(image * w_image) + sum(pooled * w_pooled)"
    sizes = dict(text_lengths=",".join(map(str, lengths)), heads=HEADS, layers=LAYERS, eps=EPS)
    write(path, x, outputs, {"": scalar}, dropped=dropped, scalar=said, **sizes)


def write_tags(path):
    draw = Draw(14)
    x = {"states": draw(6, 8), "labels": torch.tensor([12, 3, 3, 0, 8, 5])} | draw.head(13)
    logits = head(x, x["states"])
    loss = F.cross_entropy(logits, x["labels"])
    write(path, x, {"logits": logits, "loss": loss}, {"": loss}, scalar="loss", eps=EPS)


def main():
    out = pathlib.Path(sys.argv[1])
    write_grounding(out / "wpg.safetensors")
    write_semantic(out / "vsc.safetensors")
    write_joint(out / "joint.safetensors")
    write_tags(out / "tags.safetensors")
    print(sum(file.stat().st_size for file in out.glob("*.safetensors")), "bytes")


if __name__ == "__main__":
    main()
