"""Writes tests/fixtures/masked: MAMO's losses on a toy model of image encoder, text encoder and one stream, with gradients.

Usage: python masked.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

What a file holds and how it is computed is as in grounded.py, which lends its layers and its writer. `backbone.*` are the student's
encoders, `teacher.*` those of the teacher, which are constants. Hidden words and patches are given. The names of losses say what they
compare: mrm_smooth_l1, mrm_l2, mrm_cosine (states of the teacher's cross-modal encoder, both modalities), mim_teacher (its image
encoder's states), mim_pixels.
"""
import pathlib
import sys

import torch
import torch.nn.functional as F

# The source tree is no place for byte code.
sys.dont_write_bytecode = True
from grounded import EPS, HEADS, INNER, LAYERS, WIDTH, Draw, layers, linear, norm, write

SAMPLES, LENGTH, WORDS, SIDE, PATCH = 2, 5, 20, 8, 4
LENGTHS = [5, 4]
HIDDEN = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 1]]).bool()
LABELS = torch.tensor([[-100, 7, -100, 9, -100], [-100, -100, 5, -100, -100]])


def part(w, prefix):
    return {name[len(prefix) :]: value for name, value in w.items() if name.startswith(prefix)}


def encoders(draw):
    w = draw.linear("image.patch_embedding", 3 * PATCH * PATCH, WIDTH)
    w |= {f"image.{name}": draw(*shape) for name, shape in
          {"class_embedding": [WIDTH], "mask_embedding": [WIDTH], "position_embedding": [5, WIDTH]}.items()}
    w |= draw.norm("image.post_norm") | draw.norm("text.embedding_norm")
    w |= {f"text.{name}_embedding.weight": draw(rows, WIDTH) for name, rows in
          {"word": WORDS, "position": 8, "type": 1}.items()}
    for encoder in ("image", "text", "joint"):
        w |= {f"{encoder}.{name}": value for name, value in draw.layers().items()}
    return w


def image_states(w, pixels, hidden=None):
    """pixels [B, 3, S, S], hidden [B, N] -> [B, 1 + N, D]."""
    n = SIDE // PATCH
    x = pixels.unflatten(3, (n, PATCH)).unflatten(2, (n, PATCH)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    x = linear(w, "patch_embedding", x)
    if hidden is not None:
        x = torch.where(hidden[..., None], w["mask_embedding"], x)
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


def text_states(w, ids, shown):
    x = w["word_embedding.weight"][ids] + w["position_embedding.weight"][: ids.shape[1]] + w["type_embedding.weight"][0]
    return layers(w, norm(w, "embedding_norm", x), shown[:, None].expand(-1, LENGTH, -1))


def fused(w, image, text, shown):
    """-> states of the image, [B, 1 + N, D], and of the text, [B, L, D]."""
    keys = torch.cat([torch.ones(image.shape[:2]).bool(), shown], 1)
    both = layers(w, torch.cat([image, text], 1), keys[:, None].expand(-1, keys.shape[1], -1))
    return both.split([image.shape[1], text.shape[1]], 1)


def normed(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def mlp(w, name, x):
    return linear(w, f"{name}.outer", F.gelu(linear(w, f"{name}.inner", x)))


DISTANCES = {
    "l2": lambda z, y: (z - y).square().mean(),
    "smooth_l1": F.smooth_l1_loss,
    "cosine": lambda z, y: (1 - F.cosine_similarity(z, y, dim=-1)).mean(),
}


def main():
    draw = Draw(4)
    student, teacher = encoders(draw), {name: value.detach() for name, value in encoders(draw).items()}
    heads = draw.linear("mrm.text.inner", WIDTH, WIDTH) | draw.linear("mrm.text.outer", WIDTH, WIDTH)
    heads |= draw.linear("mrm.image.inner", WIDTH, WIDTH) | draw.linear("mrm.image.outer", WIDTH, WIDTH)
    for name, width in {"teacher": WIDTH, "pixels": 3 * PATCH * PATCH}.items():
        heads |= draw.linear(f"mim_{name}.inner.0", WIDTH, WIDTH) | draw.linear(f"mim_{name}.outer", WIDTH, width)
    levels = torch.randint(0, 256, (SAMPLES, 3, SIDE, SIDE), generator=draw.generator)
    pixels = (levels.double() / 255 - 0.5) / 0.5
    shown = torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(5, WORDS, (SAMPLES, LENGTH), generator=draw.generator)
    ids[LABELS >= 0], ids[~shown] = LABELS[LABELS >= 0], 1
    masked = ids.masked_fill(LABELS >= 0, 4)

    whole = lambda kind: part(teacher, f"{kind}.")
    seen = image_states(whole("image"), pixels)
    y_image, y_text = fused(whole("joint"), seen, text_states(whole("text"), ids, shown), shown)
    own = lambda kind: part(student, f"{kind}.")
    z_image = image_states(own("image"), pixels, HIDDEN)
    z_image, z_text = fused(own("joint"), z_image, text_states(own("text"), masked, shown), shown)
    # Without the class token.
    at_patches, at_words = lambda x: x[:, 1:][HIDDEN], lambda x: x[LABELS >= 0]
    z = {"image": at_patches(z_image), "text": at_words(z_text)}
    y = {"image": normed(at_patches(y_image)), "text": normed(at_words(y_text))}
    outputs, scalars = {"y_image": y["image"], "y_text": y["text"]}, {}
    for name, distance in DISTANCES.items():
        both = [distance(mlp(heads, f"mrm.{kind}", z[kind]), y[kind]) for kind in z]
        outputs[f"mrm_{name}"] = sum(both) / 2
    n = SIDE // PATCH
    of_pixels = pixels.unflatten(3, (n, PATCH)).unflatten(2, (n, PATCH)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    targets = {"teacher": normed(at_patches(seen)), "pixels": normed(of_pixels[HIDDEN])}
    for name, target in targets.items():
        hidden = F.gelu(linear(heads, f"mim_{name}.inner.0", z["image"]))
        outputs[f"mim_{name}"] = (linear(heads, f"mim_{name}.outer", hidden) - target).square().mean()
    x = {f"backbone.{name}": value for name, value in student.items()} | heads
    x |= {f"teacher.{name}": value for name, value in teacher.items()}
    x |= dict(levels=levels, ids=ids, masked=masked, labels=LABELS, hidden=HIDDEN)
    # All heads have a gradient of one sum; what a loss does not reach has that of the others.
    total = outputs["mrm_smooth_l1"] + outputs["mim_teacher"] + outputs["mim_pixels"]
    outputs["total"] = total
    scalars[""] = total
    write(pathlib.Path(sys.argv[1]) / "masked.safetensors", x, outputs, scalars, scalar="total", eps=EPS, inner=INNER)
    print({name: round(value.item(), 4) for name, value in outputs.items() if value.ndim == 0})


if __name__ == "__main__":
    main()
