"""Writes tests/fixtures/xlco: InfoXLM's cross-lingual contrast at toy size, over two steps of one optimiser step of SGD.

Usage: python xlco.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

Plain PyTorch from what is known of the release (arXiv 2007.07834), computed as `grounded.py` says. A text encoder of two layers (post-LN,
positions from 0), of which the class token after the first is taken, a layer without a bias, slow copies of both with other weights, and
a queue of 6 keys. Step 1 gives the loss and its gradient for every fast weight that has one; the second layer has none, and nothing slow
has. Then the fast weights go one step against the gradient, slow = DECAY slow + (1 - DECAY) fast, and the 4 keys of step 1 are written
over the oldest rows. Step 2 is the same with other texts; its keys go past the queue's end and on at its beginning.
"""
import pathlib
import sys

import torch
import torch.nn.functional as F

from cross import attention, feed_forward
from grounded import INNER, LAYERS, WIDTH, Draw, norm, write

WORDS, POSITIONS, QUEUE, TAKEN = 20, 8, 6, 1
PAD, DECAY, RATE, TEMPERATURE = 1, 0.9, 0.05, 2.0
QUERIES = [
    [[0, 5, 6, 2, 7, 2], [0, 8, 2, 9, 2, 1], [0, 10, 11, 2, 12, 2], [0, 6, 2, 5, 2, 1]],
    [[0, 13, 2, 7, 5, 2], [0, 9, 14, 2, 8, 2], [0, 12, 2, 6, 2, 1], [0, 15, 2, 10, 2, 1]],
]
KEYS = [
    [[0, 16, 2, 17, 2, 1], [0, 18, 19, 2, 13, 2], [0, 14, 2, 15, 2, 1], [0, 17, 2, 16, 13, 2]],
    [[0, 19, 2, 16, 2, 1], [0, 18, 2, 5, 2, 1], [0, 14, 17, 2, 7, 2], [0, 15, 2, 9, 19, 2]],
]


def class_state(w, ids):
    """The state of the first position after layer TAKEN, counted from 1."""
    visible = ids != PAD
    x = w["text.word_embedding.weight"][ids] + w["text.position_embedding.weight"][: ids.shape[1]] + w["text.type_embedding.weight"][0]
    x = norm(w, "text.embedding_norm", x)
    for n in range(TAKEN):
        name = f"text.layers.{n}"
        x = norm(w, f"{name}.attention_norm", x + attention(w, f"{name}.attention", x, x, visible))
        x = norm(w, f"{name}.feed_forward_norm", x + feed_forward(w, f"{name}.feed_forward", x))
    return x[:, 0]


def feature(w, ids):
    return class_state(w, ids) @ w["xlco.projection.weight"]


def loss(query, key, queue):
    scores = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1) / TEMPERATURE
    return F.cross_entropy(scores, torch.zeros(len(query), dtype=torch.long))


def weights(draw):
    w = {"text.word_embedding.weight": draw(WORDS, WIDTH), "text.position_embedding.weight": draw(POSITIONS, WIDTH)}
    w |= {"text.type_embedding.weight": draw(1, WIDTH)} | draw.norm("text.embedding_norm")
    for n in range(LAYERS):
        name = f"text.layers.{n}"
        for part in ["query", "key", "value", "output"]:
            w |= draw.linear(f"{name}.attention.{part}", WIDTH, WIDTH)
        w |= draw.norm(f"{name}.attention_norm") | draw.norm(f"{name}.feed_forward_norm")
        w |= draw.linear(f"{name}.feed_forward.inner", WIDTH, INNER) | draw.linear(f"{name}.feed_forward.outer", INNER, WIDTH)
    return w | draw.linear("xlco.projection", WIDTH, WIDTH, bias=False)


def main():
    out, draw = pathlib.Path(sys.argv[1]), Draw(31)
    fast, slow = weights(draw), weights(draw)
    slow = {name: tensor.detach() for name, tensor in slow.items()}
    queue, cursor = draw(QUEUE, WIDTH).detach(), 0
    # The second layer is after the one that is taken: no gradient reaches it, and it stays out of the list of those that have one.
    learns = lambda name: f"text.layers.{TAKEN}" not in name
    x = {name: tensor if learns(name) else tensor.detach() for name, tensor in fast.items()}
    x |= {f"slow.{name}": tensor for name, tensor in slow.items()} | {"queue": queue.clone()}
    outputs, total = {}, None
    for step, (queries, keys) in enumerate(zip(QUERIES, KEYS), 1):
        queries, keys = torch.tensor(queries), torch.tensor(keys)
        x |= {f"queries_{step}": queries, f"keys_{step}": keys}
        key = feature(slow, keys).detach()
        value = loss(feature(fast, queries), key, queue)
        if step == 1:
            total = value
        leaves = {name: tensor for name, tensor in fast.items() if learns(name)}
        gradients = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values()), retain_graph=True)))
        moved = lambda name, t: (t - RATE * gradients[name] if name in gradients else t).detach()
        fast = {name: moved(name, t).requires_grad_() for name, t in fast.items()}
        slow = {name: DECAY * t + (1 - DECAY) * fast[name].detach() for name, t in slow.items()}
        at = [(cursor + i) % QUEUE for i in range(len(key))]
        queue = queue.clone()
        queue[at] = key
        cursor = (cursor + len(key)) % QUEUE
        outputs |= {f"loss_{step}": value, f"queue_{step}": queue, f"cursor_{step}": torch.tensor([cursor])}
        outputs |= {f"slow_{step}.{name}": t for name, t in slow.items()}
    write(out / "xlco.safetensors", x, outputs, {"": total}, scalar="loss_1", decay=DECAY, rate=RATE, temperature=TEMPERATURE)


if __name__ == "__main__":
    main()
