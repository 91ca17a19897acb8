"""Writes tests/fixtures/alignment: the global alignment kernel by brute force, and Sugar's losses over stories on a toy model, with gradients.

Usage: python alignment.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

`kernel.json`: sequences of up to 5 x 5 elements as matrices of cosines, with the sum over ALL alignments and the share of it that goes through each
pair of elements, in float64. The recursion is held against both here (1e-12), and so is its gradient, by finite differences. If tslearn is
installed, its kernel too.

`stories.safetensors`: what it holds and how it is computed is as in grounded.py, which lends its layers and its writer. Every story is read by
itself, without padding: its images and sentences one after the other, each with the embedding of its place, a position seeing itself, what stands
before it and the patches of its image. Losses: `lm`, the words of sentences from all that stands before them, and the alignment's by name: `mse`
and `bce` and `kl` of fixed targets, `learned` (bce with a projection, and a layer over the slices' vectors that learns through the kernel).
"""
import itertools
import json
import math
import pathlib
import sys

import torch
import torch.nn.functional as F

# The source tree is no place for byte code.
sys.dont_write_bytecode = True
from grounded import WIDTH, Draw, layers, linear, norm, write
from masked import PATCH, SIDE, WORDS, image_states, part

E, PROJECTED, PLACES = 4, 6, 5
STORIES = [["i0", "t0", "i1", "t1"], ["t2", "i2", "t3"], ["i3", "t4", "t5"], ["t6", "i4"]]
LENGTHS = [4, 3, 5, 4, 3, 4, 5]
LENGTH, IMAGES = max(LENGTHS), 5
# sigma, band; temperatures of the similarities and of the targets.
SETTINGS = {"mse": (1.0, None), "bce": (0.8, 3), "kl": (1.2, None), "learned": (0.9, 3)}
TAU = (0.3, 0.2)


def local(cosines, sigma, band):
    """log k of each pair, [n, m]."""
    n, m = cosines.shape
    log = -(1 - cosines) / sigma**2
    if band:
        apart = (torch.arange(n)[:, None] - torch.arange(m)).abs()
        log = log + (1 - apart.double() / band).clamp(min=0).log()
    return log - (2 - log.exp()).log()


def log_kernel(log):
    """The recursion in log space."""
    n, m = log.shape
    nothing = torch.tensor(-torch.inf, dtype=torch.float64)
    done = {(-1, -1): torch.zeros((), dtype=torch.float64)}
    for i in range(n):
        for j in range(m):
            before = [done.get(at, nothing) for at in [(i - 1, j - 1), (i - 1, j), (i, j - 1)]]
            before = [b for b in before if b != -torch.inf]
            reached = torch.stack(before).logsumexp(0) if before else nothing
            done[i, j] = log[i, j] + reached if log[i, j] != -torch.inf else nothing
    return done[n - 1, m - 1]


def alignments(n, m):
    """All of them, as lists of pairs."""
    if (n, m) == (1, 1):
        return [[(0, 0)]]
    before = [(n - 1, m), (n, m - 1), (n - 1, m - 1)]
    return [path + [(n - 1, m - 1)] for a, b in before if a and b for path in alignments(a, b)]


def brute_force(log):
    """log of the sum over all alignments, and the share through each pair."""
    n, m = log.shape
    total, through = 0.0, torch.zeros(n, m, dtype=torch.float64)
    for path in alignments(n, m):
        product = math.prod(log[at].exp().item() for at in path)
        total += product
        for at in path:
            through[at] += product
    return (math.log(total), through / total) if total else (-math.inf, through)


def kernels(out):
    generator = torch.Generator().manual_seed(5)
    cases = []
    for n, m, sigma, band in itertools.product(range(1, 6), range(1, 6), [0.4, 1.0, 1.5], [None, 3]):
        x, y = (F.normalize(torch.randn(k, 3, generator=generator, dtype=torch.float64), dim=-1) for k in (n, m))
        cosines = x @ y.T
        log = local(cosines, sigma, band)
        value, shares = brute_force(log)
        recursion = log_kernel(log).item()
        assert recursion == value or abs(recursion - value) < 1e-12, (n, m, sigma, band)
        if value > -math.inf and (n, m, sigma) == (4, 5, 1.0):
            for at in [(0, 0), (1, 2), (3, 4)]:
                step = torch.zeros_like(log)
                step[at] = 1e-6
                slope = (log_kernel(log + step) - log_kernel(log - step)).item() / 2e-6
                assert abs(slope - shares[at].item()) < 1e-8
        cases.append(dict(n=n, m=m, sigma=sigma, band=band, cosines=cosines.flatten().tolist(),
                          log=None if value == -math.inf else value, expected=shares.flatten().tolist()))
    try:
        from tslearn.metrics import gak
    except ImportError:
        print("tslearn is not installed: its kernel is not compared")
    else:
        x, y = torch.randn(4, 2, generator=generator), torch.randn(5, 2, generator=generator)
        squares = torch.cdist(x.double(), y.double()).square() / 2
        of = lambda a, b: log_kernel(-squares_of(a, b) - (2 - (-squares_of(a, b)).exp()).log())
        squares_of = lambda a, b: torch.cdist(a.double(), b.double()).square() / 2
        ours = (of(x, y) - (of(x, x) + of(y, y)) / 2).exp().item()
        assert abs(gak(x.numpy(), y.numpy(), sigma=1.0) - ours) < 1e-6 and squares.shape == (4, 5)
    out.mkdir(parents=True, exist_ok=True)
    (out / "kernel.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


def similarities(stories, sigma, band):
    """stories: slices' unit vectors of each, [n, E]. -> K~, tempered by the longer length, [B, B]."""
    log = lambda a, b: log_kernel(local(a @ b.T, sigma, band))
    own = [log(s, s) for s in stories]
    rows = []
    for a, x in enumerate(stories):
        row = []
        for b, y in enumerate(stories):
            value = (log(x, y) - (own[a] + own[b]) / 2) / max(len(x), len(y))
            row.append(torch.ones((), dtype=torch.float64) if a == b else value.exp())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def encoders(draw):
    w = draw.linear("image.patch_embedding", 3 * PATCH * PATCH, WIDTH)
    w |= {f"image.{name}": draw(*shape) for name, shape in {"class_embedding": [WIDTH], "position_embedding": [5, WIDTH]}.items()}
    w |= draw.norm("image.post_norm") | draw.norm("text.embedding_norm")
    w |= {f"text.{name}_embedding.weight": draw(rows, WIDTH) for name, rows in {"word": WORDS, "position": 8, "type": 1}.items()}
    for encoder in ("image", "text", "joint"):
        w |= {f"{encoder}.{name}": value for name, value in draw.layers().items()}
    return w | {"joint.slice_embedding": draw(PLACES, WIDTH)}


def text(w, ids, causal):
    """One sentence, [L] -> [L, D]."""
    length = len(ids)
    x = w["word_embedding.weight"][ids] + w["position_embedding.weight"][:length] + w["type_embedding.weight"][0]
    seen = torch.ones(length, length).bool()
    seen = seen.tril() if causal else seen
    return layers(w, norm(w, "embedding_norm", x)[None], seen[None])[0]


def main():
    out = pathlib.Path(sys.argv[1])
    kernels(out)
    draw = Draw(12)
    w = encoders(draw)
    heads = draw.linear("lm.head.dense", WIDTH, WIDTH) | draw.norm("lm.head.norm") | {"lm.head.bias": draw(WORDS, scale=0.2)}
    itc = draw.linear("itc.text_projection", WIDTH, E) | draw.linear("itc.image_projection", WIDTH, E)
    itc = {name: value.detach() for name, value in itc.items()}
    heads |= draw.linear("alignment.projection", WIDTH, PROJECTED, bias=False) | draw.linear("alignment.slices", E, E, bias=False)
    levels = torch.randint(0, 256, (IMAGES, 3, SIDE, SIDE), generator=draw.generator)
    pixels = (levels.double() / 255 - 0.5) / 0.5
    ids = torch.randint(5, WORDS, (len(LENGTHS), LENGTH), generator=draw.generator)
    for row, length in enumerate(LENGTHS):
        ids[row, 0], ids[row, length - 1], ids[row, length:] = 0, 2, 1

    images = image_states(part(w, "image."), pixels)
    own = part(w, "text.")
    sentence = lambda row, causal: text(own, ids[row, : LENGTHS[row]], causal)
    predicted, words, pooled, vectors = [], [], [], []
    for story in STORIES:
        states, image_of, next_word = [], [], []
        for place, name in enumerate(story):
            row = int(name[1:])
            if name[0] == "i":
                slices, group = images[row], [place] * images.shape[1]
                next_word += [-1] * len(group)
                vectors.append(F.normalize(linear(itc, "itc.image_projection", images[row, 0]), dim=-1).detach())
            else:
                slices, group = sentence(row, True), [-1] * LENGTHS[row]
                next_word += ids[row, 1 : LENGTHS[row]].tolist() + [-1]
                vectors.append(F.normalize(linear(itc, "itc.text_projection", sentence(row, False)[0]), dim=-1).detach())
            states.append(slices + w["joint.slice_embedding"][place])
            image_of += group
        image_of, next_word = torch.tensor(image_of), torch.tensor(next_word)
        total = len(image_of)
        seen = torch.ones(total, total).bool().tril() | ((image_of[:, None] == image_of) & (image_of >= 0)[:, None])
        after = layers(part(w, "joint."), torch.cat(states)[None], seen[None])[0]
        predicted.append(after[next_word >= 0])
        words.append(next_word[next_word >= 0])
        pooled.append(after.mean(0))
    head = part(heads, "lm.head.")
    hidden = norm(head, "norm", F.gelu(linear(head, "dense", torch.cat(predicted))))
    lm = F.cross_entropy(hidden @ w["text.word_embedding.weight"].T + head["bias"], torch.cat(words))

    pooled, vectors = torch.stack(pooled), torch.stack(vectors)
    sizes = [len(story) for story in STORIES]
    apart = ~torch.eye(len(STORIES)).bool()
    losses, targets = {"lm": lm}, {}
    for name, (sigma, band) in SETTINGS.items():
        learned = name == "learned"
        own = F.normalize(linear(heads, "alignment.slices", vectors), dim=-1) if learned else vectors
        z = F.normalize(linear(heads, "alignment.projection", pooled) if learned else pooled, dim=-1)
        y = similarities(own.split(sizes), sigma, band)
        cosines = z @ z.T
        s = ((1 + cosines) / 2)[apart]
        if name == "mse":
            losses[name] = (s - y[apart]).square().mean()
        elif name == "kl":
            off = lambda x: x.masked_fill(~apart, -torch.inf).log_softmax(1)[apart]
            wanted, found = off(y / TAU[1]), off(cosines / TAU[0])
            losses[name] = (wanted.exp() * (wanted - found)).sum() / len(STORIES)
        else:
            losses[name] = F.binary_cross_entropy(s, y[apart], reduction="none").mean()
        targets[f"targets_{name}"] = y
    total = sum(losses.values())
    x = {f"backbone.{name}": value for name, value in w.items()} | heads | itc | dict(levels=levels, ids=ids)
    outputs = losses | targets | dict(pooled=F.normalize(pooled, dim=-1), total=total)
    write(out / "stories.safetensors", x, outputs, {"": total}, scalar="total")
    print({name: round(value.item(), 4) for name, value in losses.items()}, targets["targets_mse"].detach())


if __name__ == "__main__":
    main()
