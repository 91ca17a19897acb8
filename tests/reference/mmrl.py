"""Writes tests/fixtures/mmrl: MMRL on a toy CLIP of 3 layers, 2 tokens in layers 2 and 3, 3 classes, 4 images.

Usage: python mmrl.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

Plain PyTorch after the release (arXiv 2503.08497; trainers/mmrl.py and clip/model_mmrl.py), computed as `grounded.py` says. CLIP is frozen:
its weights are no leaves. Tokens are put in behind the class token and behind BOS in layer 2, and put anew over what the layer below made of
them in layer 3. Linear layers of the layers differ here, so that a slip in their order shows. Texts end at the highest id (EOT) and are
padded behind it. Outputs are features of length 1 (f_c, f_r, w, and CLIP's own f_0, w_0), the four terms and their sum.
"""
import pathlib
import sys

import torch
import torch.nn.functional as F

from grounded import HEADS, INNER, WIDTH, Draw, linear, norm, write

LAYERS, TOKENS, TABLE, FIRST, COMMON, SIDE, PATCH = 3, 2, 6, 2, 4, 8, 4
ALPHA, LAMBDA, SCALE = 0.7, 0.8, 4.0
WORDS, POSITIONS, EOT = 20, 7, 19
TEXTS = torch.tensor([[18, 3, 4, 5, 19], [18, 6, 19, 1, 1], [18, 7, 8, 19, 1]])
LABELS = torch.tensor([2, 0, 1, 2])


def block(w, name, x, hidden):
    """Pre-LN with CLIP's quick GELU; hidden [L, L] or None."""
    split = lambda t: t.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    y = norm(w, f"{name}.attention_norm", x)
    q, k, v = (split(linear(w, f"{name}.attention.{part}", y)) for part in ["query", "key", "value"])
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    x = x + linear(w, f"{name}.attention.output", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    inner = linear(w, f"{name}.feed_forward.inner", norm(w, f"{name}.feed_forward_norm", x))
    return x + linear(w, f"{name}.feed_forward.outer", inner * torch.sigmoid(1.702 * inner))


def through(w, tower, blocks, x, causal, tokens):
    """All layers; with tokens from layer FIRST on."""
    for n in range(LAYERS):
        if tokens and n + 1 >= FIRST:
            own = linear(w, f"representation.{tower}.{n + 1 - FIRST}", w["representation.tokens"]).expand(len(x), -1, -1)
            rest = x[:, 1:] if n + 1 == FIRST else x[:, 1 + TOKENS :]
            x = torch.cat([x[:, :1], own, rest], 1)
        hidden = torch.ones(x.shape[1], x.shape[1]).triu(1).bool() if causal else None
        x = block(w, f"{blocks}.layers.{n}", x, hidden)
    return x


def images(w, pixels, tokens):
    grid = SIDE // PATCH
    patches = pixels.reshape(len(pixels), 3, grid, PATCH, grid, PATCH).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    patches = patches @ w["image.patch_embedding.weight"]
    x = torch.cat([w["image.class_embedding"].expand(len(pixels), 1, -1), patches], 1) + w["image.position_embedding"]
    x = through(w, "image", "image", norm(w, "image.pre_norm", x), False, tokens)
    x = norm(w, "image.post_norm", x)
    class_token = x[:, 0] @ w["prompts.image_projection.weight"]
    if not tokens:
        return F.normalize(class_token)
    own = x[:, 1 : 1 + TOKENS].mean(1) @ w["prompts.token_projection.weight"]
    return F.normalize(class_token), F.normalize(own)


def texts(w, tokens):
    x = w["text.word_embedding.weight"][TEXTS] + w["text.position_embedding.weight"][: TEXTS.shape[1]]
    x = through(w, "text", "text.clip", x, True, tokens)
    x = norm(w, "text.clip.final_norm", x)
    end = TEXTS.argmax(1) + (TOKENS if tokens else 0)
    return F.normalize(x[torch.arange(len(x)), end] @ w["prompts.text_projection.weight"])


def weights(draw):
    w = {"text.word_embedding.weight": draw(WORDS, WIDTH, scale=0.5), "text.position_embedding.weight": draw(POSITIONS, WIDTH, scale=0.5)}
    w |= draw.norm("text.clip.final_norm") | draw.norm("image.pre_norm") | draw.norm("image.post_norm")
    w |= {"image.patch_embedding.weight": draw(3 * PATCH * PATCH, WIDTH, scale=0.2), "image.class_embedding": draw(WIDTH)}
    w |= {"image.position_embedding": draw((SIDE // PATCH) ** 2 + 1, WIDTH)}
    for tower in ["text.clip", "image"]:
        for n in range(LAYERS):
            name = f"{tower}.layers.{n}"
            for part in ["query", "key", "value", "output"]:
                w |= draw.linear(f"{name}.attention.{part}", WIDTH, WIDTH)
            # Tokens must move what they are read by.
            w[f"{name}.attention.output.weight"] = draw(WIDTH, WIDTH, scale=4 * WIDTH**-0.5)
            w |= draw.norm(f"{name}.attention_norm") | draw.norm(f"{name}.feed_forward_norm")
            w |= draw.linear(f"{name}.feed_forward.inner", WIDTH, INNER) | draw.linear(f"{name}.feed_forward.outer", INNER, WIDTH)
    for part in ["text", "image"]:
        w |= draw.linear(f"prompts.{part}_projection", WIDTH, COMMON, bias=False)
    frozen = {name: value.detach() for name, value in w.items()}
    own = {"representation.tokens": draw(TOKENS, TABLE, scale=2.0)} | draw.linear("prompts.token_projection", WIDTH, COMMON, bias=False)
    for tower in ["image", "text"]:
        for n in range(LAYERS - FIRST + 1):
            own |= draw.linear(f"representation.{tower}.{n}", TABLE, WIDTH)
    return frozen | own


def main():
    draw = Draw(12)
    w = weights(draw)
    pixels = draw(len(LABELS), 3, SIDE, SIDE).detach()
    f_0, w_0 = images(w, pixels, False), texts(w, False)
    (f_c, f_r), own = images(w, pixels, True), texts(w, True)
    terms = {
        "class": F.cross_entropy(SCALE * f_c @ own.T, LABELS),
        "tokens": F.cross_entropy(SCALE * f_r @ own.T, LABELS),
        "image": 1 - (f_c * f_0).sum(1).mean(),
        "text": 1 - (own * w_0).sum(1).mean(),
    }
    loss = ALPHA * terms["class"] + (1 - ALPHA) * terms["tokens"] + LAMBDA * (terms["image"] + terms["text"])
    assert min(terms["image"], terms["text"]) > 0.05, "a distance says nothing"
    outputs = {"f_c": f_c, "f_r": f_r, "w": own, "f_0": f_0, "w_0": w_0, "loss": loss} | {f"term.{k}": v for k, v in terms.items()}
    path = pathlib.Path(sys.argv[1]) / "mmrl.safetensors"
    x = w | {"pixels": pixels, "texts": TEXTS, "labels": LABELS}
    write(path, x, outputs, {"": loss}, alpha=ALPHA, scale=SCALE, scalar="loss", **{"lambda": LAMBDA})
    print(path.stat().st_size, "bytes", {k: round(v.item(), 3) for k, v in terms.items()})


if __name__ == "__main__":
    main()
