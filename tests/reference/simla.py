"""Writes tests/fixtures/simla: SIMLA's shared layers and its losses of words, codes and key words on a toy model, with gradients.

Usage: python simla.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

Plain PyTorch from what is known of the paper and its released code (arXiv 2203.14395), computed as `grounded.py` says. The blocks of the
text encoder read a text alone (`text_class`), a text over an image (`mlm`), and an image over a text's embeddings (`mim`); the last two
with an attention and a norm of their own in each block. `backbone.*` are the student's encoders, `teacher.*` those of the teacher, which
are constants, as are the copies of the heads under `*.distil.*` and `itc.momentum.*`. Losses are mixed with soft targets, alpha = 0.4.
Key words: two votes of each head, two words of each caption, no special token; equal votes go to the earlier position.
"""
import pathlib
import sys

import torch
import torch.nn.functional as F

# The source tree is no place for byte code.
sys.dont_write_bytecode = True
from grounded import HEADS, INNER, LAYERS, MARGIN, WIDTH, Draw, linear, norm, write
from masked import HIDDEN, LABELS, LENGTH, LENGTHS, PATCH, SAMPLES, SIDE, WORDS, image_states, part

ALPHA, CODES, PROJECTED, VOTES, KEY_WORDS = 0.4, 6, 4, 2, 2
POSITIONS = 8


def encoders(draw):
    w = draw.linear("image.patch_embedding", 3 * PATCH * PATCH, WIDTH)
    w |= {f"image.{name}": draw(*shape) for name, shape in
          {"class_embedding": [WIDTH], "mask_embedding": [WIDTH], "position_embedding": [5, WIDTH]}.items()}
    w |= draw.norm("image.post_norm") | draw.norm("text.embedding_norm")
    w |= {f"text.{name}_embedding.weight": draw(rows, WIDTH) for name, rows in
          {"word": WORDS, "position": POSITIONS, "type": 1}.items()}
    for encoder in ("image", "text"):
        w |= {f"{encoder}.{name}": value for name, value in draw.layers().items()}
    for n in range(LAYERS):
        for name in ["query", "key", "value", "output"]:
            w |= draw.linear(f"fusion.shared.{n}.cross_attention.{name}", WIDTH, WIDTH)
        w |= draw.norm(f"fusion.shared.{n}.cross_norm")
    return w


def attend(w, name, x, y, shown):
    """-> what is read, and the weights [B, H, Q, K]."""
    split = lambda t: t.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    q, (k, v) = split(linear(w, f"{name}.query", x)), (split(linear(w, f"{name}.{p}", y)) for p in ["key", "value"])
    weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~shown[:, None, None], -torch.inf).softmax(-1)
    return linear(w, f"{name}.output", (weights @ v).transpose(1, 2).flatten(2)), weights


def embedded(w, ids):
    """Words with positions and type, after the norm."""
    x = w["text.word_embedding.weight"][ids] + w["text.position_embedding.weight"][: ids.shape[1]]
    return norm(w, "text.embedding_norm", x + w["text.type_embedding.weight"][0])


def blocks(w, x, shown, memory=None):
    """-> states, and what the first position attends to in the last block, [B, H, L]."""
    for n in range(LAYERS):
        name = f"text.layers.{n}"
        read, weights = attend(w, f"{name}.attention", x, x, shown)
        x = norm(w, f"{name}.attention_norm", x + read)
        if memory is not None:
            read, _ = attend(w, f"fusion.shared.{n}.cross_attention", x, *memory)
            x = norm(w, f"fusion.shared.{n}.cross_norm", x + read)
        inner = F.gelu(linear(w, f"{name}.feed_forward.inner", x))
        x = norm(w, f"{name}.feed_forward_norm", x + linear(w, f"{name}.feed_forward.outer", inner))
    return x, weights[:, :, 0]


def whole(x):
    return torch.ones(x.shape[:2]).bool()


def text_over_image(w, ids, shown, image):
    return blocks(w, embedded(w, ids), shown, (image, whole(image)))


def image_over_text(w, image, ids, shown):
    x = image + w["text.position_embedding.weight"][: image.shape[1]]
    return blocks(w, norm(w, "text.embedding_norm", x), whole(image), (embedded(w, ids), shown))[0]


def key_words(weights, ids):
    chosen = []
    for heads, own, length in zip(weights, ids, LENGTHS):
        votes = [0] * LENGTH
        for head in heads:
            words = sorted(range(1, length - 1), key=lambda p: -head[p].item())
            assert all(head[a] - head[b] > MARGIN for a, b in zip(words, words[1:])), "the votes are not clear"
            for position in words[:VOTES]:
                votes[position] += 1
        best = sorted((p for p in range(LENGTH) if votes[p]), key=lambda p: (-votes[p], p))
        chosen.append([own[p].item() for p in best[:KEY_WORDS]])
    return chosen


def soft(student, teacher, labels):
    expected = -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1).mean()
    return (1 - ALPHA) * F.cross_entropy(student, labels) + ALPHA * expected


def words_of(w, heads, name, states):
    hidden = norm(heads, f"{name}norm", F.gelu(linear(heads, f"{name}dense", states)))
    return hidden @ w["text.word_embedding.weight"].T + heads[f"{name}bias"]


def concepts_of(heads, name, projection, image):
    return linear(heads, f"{name}concepts", F.normalize(linear(heads, projection, image[:, 0]), dim=-1))


def main():
    draw = Draw(11)
    fixed = lambda weights: {name: value.detach() for name, value in weights.items()}
    student, teacher = encoders(draw), fixed(encoders(draw))
    heads = {}
    for end, keep in [("", dict), ("distil.", fixed)]:
        mlm = draw.linear(f"mlm.{end}dense", WIDTH, WIDTH) | draw.norm(f"mlm.{end}norm")
        mlm |= {f"mlm.{end}bias": draw(WORDS, scale=0.2)}
        heads |= keep(mlm | draw.linear(f"mim.{end}outer", WIDTH, CODES) | draw.linear(f"psl.{end}concepts", PROJECTED, WORDS))
    heads |= draw.linear("itc.image_projection", WIDTH, PROJECTED)
    heads |= fixed(draw.linear("itc.momentum.image_projection", WIDTH, PROJECTED))
    levels = torch.randint(0, 256, (SAMPLES, 3, SIDE, SIDE), generator=draw.generator)
    pixels = (levels.double() / 255 - 0.5) / 0.5
    codes = torch.randint(0, CODES, (SAMPLES, 4), generator=draw.generator)
    shown = torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(5, WORDS, (SAMPLES, LENGTH), generator=draw.generator)
    ids[LABELS >= 0], ids[~shown], ids[:, 0] = LABELS[LABELS >= 0], 1, 0
    for row, length in enumerate(LENGTHS):
        ids[row, length - 1] = 2
    masked = ids.masked_fill(LABELS >= 0, 4)

    images = {name: image_states(part(w, "image."), pixels) for name, w in [("student", student), ("teacher", teacher)]}
    hidden = {name: image_states(part(w, "image."), pixels, HIDDEN) for name, w in [("student", student), ("teacher", teacher)]}
    text_class = blocks(student, embedded(student, ids), shown)[0][:, 0]
    at_words = lambda w, name, states: words_of(w, heads, name, states[LABELS >= 0])
    mlm = soft(at_words(student, "mlm.", text_over_image(student, masked, shown, images["student"])[0]),
               at_words(teacher, "mlm.distil.", text_over_image(teacher, masked, shown, images["teacher"])[0]), LABELS[LABELS >= 0])
    at_patches = lambda w, name, image: linear(heads, f"{name}outer", image_over_text(w, image, ids, shown)[:, 1:][HIDDEN])
    mim = soft(at_patches(student, "mim.", hidden["student"]), at_patches(teacher, "mim.distil.", hidden["teacher"]), codes[HIDDEN])
    attended = text_over_image(teacher, ids, shown, images["teacher"])[1]
    chosen = key_words(attended, ids)
    y = torch.zeros(SAMPLES, WORDS).double()
    for row, words in enumerate(chosen):
        y[row, words] = 1
    expected = concepts_of(heads, "psl.distil.", "itc.momentum.image_projection", images["teacher"]).sigmoid()
    scores = concepts_of(heads, "psl.", "itc.image_projection", images["student"])
    psl = F.binary_cross_entropy_with_logits(scores, (1 - ALPHA) * y + ALPHA * expected)
    factor = draw(SAMPLES, WIDTH).detach()
    total = mlm + mim + 20 * psl + (text_class * factor).sum()

    x = {f"backbone.{name}": value for name, value in student.items()} | heads
    x |= {f"teacher.{name}": value for name, value in teacher.items()}
    x |= dict(levels=levels, ids=ids, masked=masked, labels=LABELS, hidden=HIDDEN, codes=codes, w_class=factor, y=y)
    outputs = dict(text_class=text_class, class_attention=attended, mlm=mlm, mim=mim, psl=psl, total=total)
    write(pathlib.Path(sys.argv[1]) / "simla.safetensors", x, outputs, {"": total}, scalar="total", inner=INNER)
    print({name: round(value.item(), 4) for name, value in outputs.items() if value.ndim == 0}, chosen)


if __name__ == "__main__":
    main()
