"""Writes tests/fixtures/m3p: M3P's losses at toy size over one stream of regions and words.

Usage: python m3p.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

Plain PyTorch from what is known of the paper and its released code (arXiv 2006.02635), computed as `grounded.py` says. A region is
LN(W_f f + W_b p + b) with the feature and (x1, y1, x2, y2, area) each of length 1; of a hidden region the feature is zeros, or kept. The
first sample hides words, the others regions, and one pass gives:

- the words of the first, by the tied head
- the classes of hidden regions, and their features as the detector gave them
- of clean pairs, a score for each text with each image: binary cross-entropy of each candidate, and cross-entropy over them, in both
  directions; the batch's three texts and images are the candidates
- of the same scores UC2's triplet loss of probabilities, with both wrong candidates of each
"""
import pathlib
import sys

import torch
import torch.nn.functional as F

from grounded import WIDTH, Draw, linear, norm, write
from uc2 import COUNTS, FEATURES, IGNORE, TEXTS, boxes_of, embed_text, joint, joint_weights, logits, run_on, text_weights

CLASSES = 7
MASKED = [[0, 4, 6, 15, 2], TEXTS[1], TEXTS[2]]
LABELS = [[-100, 5, -100, 7, -100], [-100] * 5, [-100] * 5]
HIDDEN = [[0, 0, 0], [0, 1, 0], [1, 0, 1]]
# One of the hidden regions keeps its feature.
BLANK = [[0, 0, 0], [0, 1, 0], [1, 0, 0]]
CLASS = [[-100, -100, -100], [-100, 3, -100], [0, -100, 6]]


def embed_regions(w, features, boxes, blank=None):
    x1, y1, x2, y2 = boxes.unbind(-1)
    places = F.normalize(torch.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)], -1), dim=-1)
    f = F.normalize(features, dim=-1)
    if blank is not None:
        f = f.masked_fill(blank[..., None], 0.0)
    weight, bias = w["regions.region_embedding.weight"], w["regions.region_embedding.bias"]
    x = f @ weight[:FEATURES] + places @ weight[FEATURES:] + bias
    return norm(w, "regions.embedding_norm", x)


def weights(draw):
    w = text_weights(draw) | draw.linear("regions.region_embedding", FEATURES + 5, WIDTH) | draw.norm("regions.embedding_norm")
    w |= joint_weights(draw)
    w |= draw.linear("regions.classes.dense", WIDTH, WIDTH) | draw.norm("regions.classes.norm")
    w |= draw.linear("regions.classes.decoder", WIDTH, CLASSES) | draw.linear("regions.features", WIDTH, FEATURES)
    return w | draw.linear("ranking.summary.text", WIDTH, WIDTH) | draw.linear("ranking.score", WIDTH, 1)


def main():
    out, draw = pathlib.Path(sys.argv[1]), Draw(22)
    w = weights(draw)
    given = {"features": draw(3, 3, FEATURES).detach(), "boxes": boxes_of(draw)}
    whole = {"texts": TEXTS, "masked_texts": MASKED, "labels": LABELS, "counts": COUNTS}
    whole |= {"hidden": HIDDEN, "blank": BLANK, "classes": CLASS}
    whole = {name: torch.tensor(rows) for name, rows in whole.items()}
    shown = torch.arange(3) < whole["counts"][:, None]
    hidden = whole["hidden"].bool()

    text, seen = embed_text(w, whole["masked_texts"], run_on(whole["masked_texts"]))
    regions = embed_regions(w, given["features"], given["boxes"], whole["blank"].bool())
    of_regions, of_words = joint(w, regions, shown, text, seen)
    at = whole["labels"] != IGNORE
    words = F.cross_entropy(logits(w, of_words[at]), whole["labels"][at])
    own = norm(w, "regions.classes.norm", F.gelu(linear(w, "regions.classes.dense", of_regions[hidden])))
    classes = F.cross_entropy(linear(w, "regions.classes.decoder", own), whole["classes"][hidden])
    features = F.mse_loss(linear(w, "regions.features", of_regions[hidden]), given["features"][hidden])

    text, seen = embed_text(w, whole["texts"], run_on(whole["texts"]))
    regions = embed_regions(w, given["features"], given["boxes"])
    t, v = (i.flatten() for i in torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"))
    _, fused = joint(w, regions[v], shown[v], text[t], seen[t])
    scores = linear(w, "ranking.score", linear(w, "ranking.summary.text", fused[:, 0]).tanh()).reshape(3, 3)
    true = torch.arange(3)
    binary = F.binary_cross_entropy_with_logits(scores, torch.eye(3, dtype=torch.float64))
    over_all = (F.cross_entropy(scores, true) + F.cross_entropy(scores.T, true)) / 2
    own = scores.sigmoid()
    wrong = ~torch.eye(3, dtype=torch.bool)
    triplet = sum(F.relu(0.2 + s - s.diagonal()[:, None])[wrong].mean() for s in (own, own.T)) / 2

    outputs = {"words": words, "classes_loss": classes, "features_error": features, "binary": binary, "over_all": over_all, "triplet": triplet}
    total = words + classes + 0.5 * features + binary + over_all + triplet
    write(out / "step.safetensors", w | given | whole, outputs, {"": total}, scalar="words + classes + features / 2 + binary + over_all + triplet")


if __name__ == "__main__":
    main()
