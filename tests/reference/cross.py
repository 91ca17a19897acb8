"""Writes tests/fixtures/cross: CCLM's losses at toy size, once with an image as memory and once with another text.

Usage: python cross.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

Plain PyTorch from the paper's abstract and what is known of the released code (arXiv 2206.00621), computed as `grounded.py` says. Two
layers of a text encoder (post-LN, positions from 0), two cross layers on top of it (self, cross, feed-forward, post-LN) and the heads
are the same in both files:

- image.safetensors: ITC + ITM + MLM; the memory is `image` [B, 5, 8], whose position 0 is its class token
- text.safetensors: TTC + TTM + TLM; the memory is the other text, padded. In TTM the translation is read and the text is its memory;
  in TLM the masked text is read and the translation is its memory: the release's roles

Wrong partners are the most similar others, in the order: every true pair, every text with a wrong memory, every memory with a wrong text.
"""
import pathlib
import sys

import torch
import torch.nn.functional as F

from grounded import HEADS, INNER, LAYERS, WIDTH, Draw, clear, linear, norm, write

WORDS, POSITIONS, ROWS, PROJECTED = 20, 8, 3, 4
PAD, IGNORE = 1, -100
TEXTS = [[0, 5, 6, 7, 2], [0, 8, 9, 2, 1], [0, 10, 11, 12, 2]]
TRANSLATIONS = [[0, 13, 14, 2, 1], [0, 15, 16, 17, 2], [0, 18, 19, 5, 2]]
MASKED = [[0, 4, 6, 7, 2], [0, 8, 4, 2, 1], [0, 4, 11, 13, 2]]
LABELS = [[-100, 5, -100, -100, -100], [-100, -100, 9, -100, -100], [-100, 10, -100, 12, -100]]


def attention(w, name, x, y, visible):
    split = lambda t: t.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    q = split(linear(w, f"{name}.query", x))
    k, v = (split(linear(w, f"{name}.{part}", y)) for part in ["key", "value"])
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~visible[:, None, None], -torch.inf)
    return linear(w, f"{name}.output", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def feed_forward(w, name, x):
    return linear(w, f"{name}.outer", F.gelu(linear(w, f"{name}.inner", x)))


def encode(w, ids):
    """ids [B, L] -> states and which positions are no padding."""
    visible = ids != PAD
    x = w["text.word_embedding.weight"][ids] + w["text.position_embedding.weight"][: ids.shape[1]] + w["text.type_embedding.weight"][0]
    x = norm(w, "text.embedding_norm", x)
    for n in range(LAYERS):
        name = f"text.layers.{n}"
        x = norm(w, f"{name}.attention_norm", x + attention(w, f"{name}.attention", x, x, visible))
        x = norm(w, f"{name}.feed_forward_norm", x + feed_forward(w, f"{name}.feed_forward", x))
    return x, visible


def cross(w, text, memory):
    """Both are states with which positions are no padding."""
    (x, visible), (y, seen) = text, memory
    for n in range(LAYERS):
        name = f"fusion.text.layers.{n}"
        x = norm(w, f"{name}.self_norm", x + attention(w, f"{name}.self_attention", x, x, visible))
        x = norm(w, f"{name}.cross_norm", x + attention(w, f"{name}.cross_attention", x, y, seen))
        x = norm(w, f"{name}.feed_forward_norm", x + feed_forward(w, f"{name}.feed_forward", x))
    return x


def losses(w, query, memory, features, masked, clean):
    """Contrast and matching of query and memory, and the words of `masked` given `clean`."""
    similarity = features[0] @ features[1].T * w["itc.logit_scale"].exp()
    rows = torch.arange(ROWS)
    contrast = (F.cross_entropy(similarity, rows) + F.cross_entropy(similarity.T, rows)) / 2
    others = similarity.masked_fill(torch.eye(ROWS, dtype=torch.bool), -torch.inf)
    clear(others), clear(others.T)
    texts = torch.cat([rows, rows, others.argmax(0)])
    memories = torch.cat([rows, others.argmax(1), rows])
    take = lambda states, at: tuple(part[at] for part in states)
    fused = cross(w, take(query, texts), take(memory, memories))
    logits = linear(w, "itm.classifier", F.gelu(norm(w, "itm.norm", linear(w, "itm.text", fused[:, 0]))))
    matching = F.cross_entropy(logits, torch.tensor([1] * ROWS + [0] * 2 * ROWS))
    words = cross(w, masked, clean)
    labels = torch.tensor(LABELS)
    hidden = norm(w, "mlm.norm", F.gelu(linear(w, "mlm.dense", words[labels != IGNORE])))
    predicted = hidden @ w["text.word_embedding.weight"].T + w["mlm.bias"]
    masked = F.cross_entropy(predicted, labels[labels != IGNORE])
    outputs = {"fused": words, "contrast": contrast, "matching": matching, "masked": masked}
    return outputs | {"negative_texts": texts[2 * ROWS :], "negative_memories": memories[ROWS : 2 * ROWS]}


def weights(draw):
    w = {"text.word_embedding.weight": draw(WORDS, WIDTH), "text.position_embedding.weight": draw(POSITIONS, WIDTH)}
    w |= {"text.type_embedding.weight": draw(1, WIDTH)} | draw.norm("text.embedding_norm")
    blocks = [(f"text.layers.{n}", ["attention"]) for n in range(LAYERS)]
    blocks += [(f"fusion.text.layers.{n}", ["self_attention", "cross_attention"]) for n in range(LAYERS)]
    for name, attentions in blocks:
        for each in attentions:
            for part in ["query", "key", "value", "output"]:
                w |= draw.linear(f"{name}.{each}.{part}", WIDTH, WIDTH)
            w |= draw.norm(f"{name}.{each.removesuffix('_attention') if '_' in each else each}_norm")
        w |= draw.linear(f"{name}.feed_forward.inner", WIDTH, INNER) | draw.linear(f"{name}.feed_forward.outer", INNER, WIDTH)
        w |= draw.norm(f"{name}.feed_forward_norm")
    w |= draw.linear("itc.text_projection", WIDTH, PROJECTED) | draw.linear("itc.image_projection", WIDTH, PROJECTED)
    w |= {"itc.logit_scale": draw(1, scale=0.5)}
    w |= draw.linear("itm.text", WIDTH, 2 * WIDTH) | draw.norm("itm.norm", 2 * WIDTH) | draw.linear("itm.classifier", 2 * WIDTH, 2)
    return w | draw.linear("mlm.dense", WIDTH, WIDTH) | draw.norm("mlm.norm") | {"mlm.bias": draw(WORDS, scale=0.2)}


def main():
    out, draw = pathlib.Path(sys.argv[1]), Draw(20)
    w = weights(draw)
    ids = {"texts": TEXTS, "translations": TRANSLATIONS, "masked_texts": MASKED, "labels": LABELS}
    ids = {name: torch.tensor(rows) for name, rows in ids.items()}
    texts, translations, masked = (encode(w, ids[name]) for name in ["texts", "translations", "masked_texts"])
    space = lambda states, name: F.normalize(linear(w, f"itc.{name}_projection", states[0][:, 0]), dim=-1)

    image = (draw(ROWS, 5, WIDTH), torch.ones(ROWS, 5, dtype=torch.bool))
    found = losses(w, texts, image, (space(texts, "text"), space(image, "image")), masked, image)
    total = found["contrast"] + found["matching"] + found["masked"]
    write(out / "image.safetensors", w | ids | {"image": image[0]}, found, {"": total}, scalar="contrast + matching + masked")

    features = (space(translations, "text"), space(texts, "text"))
    found = losses(w, translations, texts, features, masked, translations)
    total = found["contrast"] + found["matching"] + found["masked"]
    # What reads images takes no part.
    own = {name: tensor for name, tensor in w.items() if "image" not in name}
    write(out / "text.safetensors", own | ids, found, {"": total}, scalar="contrast + matching + masked")


if __name__ == "__main__":
    main()
