"""Writes tests/fixtures/uc2: UC2's losses at toy size over one stream of regions and words.

Usage: python uc2.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

Plain PyTorch from what is known of the paper and its released code (arXiv 2104.00332), computed as `grounded.py` says. Words and regions are
embedded and read by two post-LN layers, in which everything sees everything but padding:

- a word: LN(word + position + type), positions from 2; in a joined text they begin anew at the second begin token
- a region: LN(LN(W f) + LN(U p) + type), p = (x1, y1, x2, y2, w, h, w h); the feature of a hidden region is the mask embedding

Files:

- sampled.safetensors: MRTM with one token for each hidden region over all words, and VTLM: hidden words of a text with its translation behind
  it, beside the image
- soft.safetensors: MRTM with shares over the tokens of names: the divergence by region, and by element times 1000
"""
import pathlib
import sys

import torch
import torch.nn.functional as F

from grounded import LAYERS, WIDTH, INNER, Draw, layers, linear, norm, write

WORDS, POSITIONS, FEATURES = 20, 16, 5
PAD, IGNORE = 1, -100
TEXTS = [[0, 5, 6, 7, 2], [0, 8, 9, 2, 1], [0, 10, 11, 12, 2]]
# The second begin token is at RESTARTS.
JOINED = [[0, 5, 6, 7, 2, 0, 13, 4, 2], [0, 8, 4, 2, 0, 15, 16, 2, 1], [0, 4, 11, 12, 2, 0, 18, 4, 2]]
LABELS = [[-100] * 7 + [14, -100], [-100, -100, 9] + [-100] * 6, [-100, 10, -100, -100, -100, -100, -100, 19, -100]]
RESTARTS = [5, 4, 5]
COUNTS = [3, 2, 3]
HIDDEN = [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
TOKENS = [[5, -100, -100], [-100, 9, -100], [18, -100, 10]]
VOCABULARY = [5, 9, 10, 14, 18]


def embed_text(w, ids, positions):
    x = w["text.word_embedding.weight"][ids] + w["text.position_embedding.weight"][positions] + w["text.type_embedding.weight"][0]
    return norm(w, "text.embedding_norm", x), ids != PAD


def run_on(ids):
    """Positions from 2, padding as the row of padding."""
    return torch.where(ids != PAD, torch.arange(ids.shape[1]) + 2, PAD)


def restarting(ids, restarts):
    at = torch.arange(ids.shape[1])
    positions = torch.stack([torch.where(at < r, at, at - r) + 2 for r in restarts])
    return torch.where(ids != PAD, positions, PAD)


def places(boxes):
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1, y1, x2, y2, x2 - x1, y2 - y1, (x2 - x1) * (y2 - y1)], -1)


def embed_regions(w, features, boxes, hidden=None):
    f = features
    if hidden is not None:
        f = torch.where(hidden[..., None], torch.zeros_like(f) + w["regions.mask_embedding"], f)
    f = norm(w, "regions.apart.feature_norm", linear(w, "regions.region_embedding", f))
    p = norm(w, "regions.apart.place_norm", linear(w, "regions.apart.place_embedding", places(boxes)))
    return norm(w, "regions.embedding_norm", f + p + w["regions.apart.type_embedding"])


def joint(w, regions, shown, text, seen):
    """The states of regions and words."""
    own = {name.removeprefix("joint."): t for name, t in w.items() if name.startswith("joint.")}
    keys = torch.cat([shown, seen], 1)
    x = layers(own, torch.cat([regions, text], 1), keys[:, None].expand(-1, keys.shape[1], -1))
    return x.split([regions.shape[1], text.shape[1]], 1)


def logits(w, states):
    hidden = norm(w, "mlm.norm", F.gelu(linear(w, "mlm.dense", states)))
    return hidden @ w["text.word_embedding.weight"].T + w["mlm.bias"]


def joint_weights(draw):
    w = {f"joint.{name}": t for name, t in draw.layers().items()}
    assert all(f"joint.layers.{n}.feed_forward.inner.weight" in w for n in range(LAYERS)) and INNER == 16
    return w


def text_weights(draw):
    w = {"text.word_embedding.weight": draw(WORDS, WIDTH), "text.position_embedding.weight": draw(POSITIONS, WIDTH)}
    w |= {"text.type_embedding.weight": draw(1, WIDTH)} | draw.norm("text.embedding_norm")
    return w | draw.linear("mlm.dense", WIDTH, WIDTH) | draw.norm("mlm.norm") | {"mlm.bias": draw(WORDS, scale=0.2)}


def weights(draw):
    w = text_weights(draw) | draw.linear("regions.region_embedding", FEATURES, WIDTH) | draw.norm("regions.embedding_norm")
    w |= draw.norm("regions.apart.feature_norm") | draw.norm("regions.apart.place_norm")
    w |= draw.linear("regions.apart.place_embedding", 7, WIDTH) | {"regions.apart.type_embedding": draw(WIDTH)}
    return w | {"regions.mask_embedding": draw(FEATURES)} | joint_weights(draw)


def boxes_of(draw):
    """Corners in order, within the image."""
    drawn = torch.rand((len(COUNTS), 3, 4), generator=draw.generator, dtype=torch.float64)
    first, size = drawn[..., :2] * 0.5, drawn[..., 2:] * 0.4 + 0.1
    return torch.cat([first, first + size], -1).float().double()


def main():
    out, draw = pathlib.Path(sys.argv[1]), Draw(21)
    w = weights(draw)
    given = {"features": draw(3, 3, FEATURES).detach(), "boxes": boxes_of(draw)}
    whole = {"texts": TEXTS, "joined": JOINED, "labels": LABELS, "restarts": RESTARTS, "counts": COUNTS}
    whole |= {"hidden": HIDDEN, "tokens": TOKENS, "vocabulary": VOCABULARY}
    whole = {name: torch.tensor(rows) for name, rows in whole.items()}
    shown = torch.arange(3) < whole["counts"][:, None]
    hidden, tokens = whole["hidden"].bool(), whole["tokens"]

    text, seen = embed_text(w, whole["texts"], run_on(whole["texts"]))
    regions = embed_regions(w, given["features"], given["boxes"], hidden)
    states, _ = joint(w, regions, shown, text, seen)
    of_regions = logits(w, states[hidden])
    sampled = F.cross_entropy(of_regions, tokens[hidden])
    names = of_regions[:, VOCABULARY]
    among_names = F.cross_entropy(names, torch.searchsorted(whole["vocabulary"], tokens[hidden]))

    joined, seen = embed_text(w, whole["joined"], restarting(whole["joined"], RESTARTS))
    regions = embed_regions(w, given["features"], given["boxes"])
    _, states = joint(w, regions, shown, joined, seen)
    at = whole["labels"] != IGNORE
    vtlm = F.cross_entropy(logits(w, states[at]), whole["labels"][at])
    outputs = {"sampled": sampled, "among_names": among_names, "vtlm": vtlm}
    write(out / "sampled.safetensors", w | given | whole, outputs, {"": sampled + vtlm}, scalar="sampled + vtlm")

    shares = torch.rand((4, 5), generator=draw.generator, dtype=torch.float64)
    shares[0, 2] = shares[3, 0] = 0.0
    shares = (shares / shares.sum(1, keepdim=True)).float().double()
    logarithms = names.log_softmax(1)
    by_region = F.kl_div(logarithms, shares, reduction="batchmean")
    by_element = F.kl_div(logarithms, shares, reduction="mean") * 1000
    outputs = {"by_region": by_region, "by_element": by_element}
    write(out / "soft.safetensors", w | given | whole | {"shares": shares}, outputs, {"": by_region}, scalar="by_region")


if __name__ == "__main__":
    main()
