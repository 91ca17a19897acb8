"""Writes tests/fixtures/walk: WS-MGMap's agent on a toy model, its four losses and their gradients.

Usage: python walk.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

What the file holds and how it is computed is as in grounded.py, which lends its layers and its writer. Written from the description of the
released code (mg_map_policy.py, policy.py `aux_prediction`, dagger_trainer.py `_update_agent`), with blocks in the place of convolutions and
causal attention in the place of the GRUs. Every episode is computed by itself, decision by decision: a decision is the last of what came before.
`hallucinate` and `path` in their default forms, `path_sample` with the range of each decision, `path_sum` without the mean over tokens,
`hallucinate_seen` of seen cells without void; they are no part of the total.
"""
import pathlib
import sys

import torch
import torch.nn.functional as F

# The source tree is no place for byte code.
sys.dont_write_bytecode = True
from grounded import HEADS, LAYERS, WIDTH, Draw, linear, norm, write
from masked import WORDS, part

from grounded import layers as post_norm

STEPS, LENGTHS, LENGTH = [3, 1, 2], [5, 3, 4], 5
CELLS, CHANNELS, PATCH, SEMANTIC, CLASSES, VIEW, MOST = 8, 3, 4, 4, 5, 8, 4
GRID = CELLS // PATCH
# The weights of the losses, large enough for gradients that tell.
TOTAL = dict(waypoint=8.0, progress=4.0, path=80.0, hallucinate=4.0)


def blocks(w, x, causal=False):
    """Pre-norm blocks and a last norm on x [B, L, D]."""
    split = lambda t: t.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    hidden = torch.ones(x.shape[1], x.shape[1]).bool().triu(1) if causal else torch.zeros(1, 1).bool()
    for n in range(LAYERS):
        y = norm(w, f"layers.{n}.attention_norm", x)
        q, k, v = (split(linear(w, f"layers.{n}.attention.{name}", y)) for name in ["query", "key", "value"])
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, -torch.inf)
        x = x + linear(w, f"layers.{n}.attention.output", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        y = norm(w, f"layers.{n}.feed_forward_norm", x)
        x = x + linear(w, f"layers.{n}.feed_forward.outer", F.gelu(linear(w, f"layers.{n}.feed_forward.inner", y)))
    return norm(w, "norm", x)


def patches(w, grids):
    """grids [T, C, M, M] -> [T, P, D]; a patch embedding is a convolution."""
    weight = w["patch_embedding.weight"].T.unflatten(1, (-1, PATCH, PATCH))
    x = F.conv2d(grids, weight, w["patch_embedding.bias"], stride=PATCH).flatten(2).mT
    return blocks(w, x + w["position_embedding"])


def look(w, query, memory):
    """query [Q, Dq], memory [K, Dm] -> what is found, and the weights."""
    scores = linear(w, "query", query) @ linear(w, "key", memory).T / WIDTH**0.5
    return scores.softmax(-1) @ memory, scores.softmax(-1)


def perceive(w, maps, views):
    """-> tokens [T, P, D], logits [T, K, N, N], what is sensed [T, D]."""
    fine = patches(part(w, "tokens.fine."), maps)
    layer = part(w, "tokens.semantic.")
    n = SEMANTIC // GRID
    logits = linear(layer, "classes", blocks(layer, fine)).unflatten(-1, (n * n, CLASSES))
    # A patch's cells, row by row, as a transposed convolution places them.
    logits = F.pixel_shuffle(logits.permute(0, 3, 2, 1).flatten(1, 2).unflatten(-1, (GRID, GRID)), n)
    pooled = F.avg_pool2d(logits, n).flatten(2).mT
    both = torch.cat([linear(w, "tokens.fine_half", fine), linear(layer, "half", pooled)], -1)
    tokens = linear(w, "tokens.both", F.gelu(both)) + w["tokens.places"]
    senses = [patches(part(w, "view."), views).mean(1), tokens.mean(1)]
    return tokens, logits, linear(w, "sensed", torch.cat(senses, -1))


def decide(w, words, tokens, sensed):
    """One episode: words [L, D], tokens [S, P, D], sensed [S, D] -> states [S, D], attention [S, P]."""
    states, attention, joined = [], [], []
    for s in range(len(sensed)):
        told = sensed[: s + 1] + w["step_embedding"][: s + 1]
        state = blocks(part(w, "state."), told[None], causal=True)[0, -1:]
        text, _ = look(part(w, "words."), state, words)
        found, a = look(part(w, "places."), text, tokens[s])
        joined.append(F.relu(linear(w, "joined", torch.cat([state, text, found], -1))))
        states.append(blocks(part(w, "output."), torch.cat(joined)[None], causal=True)[0, -1])
        attention.append(a[0])
    return torch.stack(states), torch.stack(attention)


def kl(attention, distances, over, mean):
    most, least = (f(distances, over, keepdim=True) if over else f(distances) for f in (torch.amax, torch.amin))
    near = F.interpolate(((most - distances) / (most - least))[:, None], (GRID, GRID), mode="area").flatten(1)
    target = (near / 0.07).softmax(-1)
    each = F.kl_div(attention.log(), target, reduction="none")
    return (each.mean(1) if mean else each.sum(1)).mean(), target


def weights(draw):
    def blocks_of(prefix):
        return {f"{prefix}{name}": value for name, value in (draw.layers() | draw.norm("norm")).items()}

    def patches_of(prefix, channels, count):
        own = draw.linear(f"{prefix}patch_embedding", channels * PATCH * PATCH, WIDTH)
        return own | {f"{prefix}position_embedding": draw(count, WIDTH)} | blocks_of(prefix)

    w = patches_of("tokens.fine.", CHANNELS, GRID**2) | patches_of("view.", 4, (VIEW // PATCH) ** 2)
    w |= blocks_of("tokens.semantic.") | blocks_of("state.") | blocks_of("output.")
    w |= draw.linear("tokens.semantic.classes", WIDTH, (SEMANTIC // GRID) ** 2 * CLASSES)
    w |= draw.linear("tokens.semantic.half", CLASSES, WIDTH // 2) | draw.linear("tokens.fine_half", WIDTH, WIDTH // 2)
    w |= draw.linear("tokens.both", WIDTH, WIDTH) | {"tokens.places": draw(GRID**2, WIDTH)}
    w |= draw.linear("sensed", 2 * WIDTH, WIDTH) | {"step_embedding": draw(MOST, WIDTH)}
    for name in ["words", "places"]:
        w |= draw.linear(f"{name}.query", WIDTH, WIDTH) | draw.linear(f"{name}.key", WIDTH, WIDTH)
    return w | draw.linear("joined", 3 * WIDTH, WIDTH)


def main():
    out = pathlib.Path(sys.argv[1])
    draw = Draw(31)
    own = weights(draw)
    text = draw.norm("embedding_norm") | draw.layers()
    text |= {f"{name}_embedding.weight": draw(rows, WIDTH) for name, rows in {"word": WORDS, "position": 8, "type": 1}.items()}
    heads = draw.linear("walk.waypoint", WIDTH, 2) | draw.linear("walk.progress", WIDTH, 1)
    whole = lambda high, *shape: torch.randint(0, high, shape, generator=draw.generator)
    total_steps = sum(STEPS)
    ids = whole(WORDS - 5, len(STEPS), LENGTH) + 5
    for row, length in enumerate(LENGTHS):
        ids[row, length:] = 1
    maps, views = whole(256, total_steps, CHANNELS, CELLS, CELLS), whole(256, total_steps, 4, VIEW, VIEW)
    seen, classes = whole(2, total_steps, CELLS, CELLS), whole(CLASSES, total_steps, CELLS, CELLS)
    maps = maps * seen[:, None]
    uniform = lambda *shape: torch.rand(shape, generator=draw.generator).double()
    distances = (uniform(total_steps, CELLS, CELLS) * 9).float().double()
    waypoints, progress = ((uniform(total_steps, n) * 1.6 - 0.8).float().double() for n in (2, 1))

    tokens, logits, sensed = perceive(own, maps.double() / 255, views.double() / 255 * 2 - 1)
    states, attention, first = [], [], 0
    for row, steps in enumerate(STEPS):
        read = ids[row, : LENGTHS[row]]
        x = text["word_embedding.weight"][read] + text["position_embedding.weight"][: len(read)] + text["type_embedding.weight"][0]
        words = post_norm(text, norm(text, "embedding_norm", x)[None], torch.ones(1, len(read), len(read)).bool())[0]
        of = slice(first, first + steps)
        state, a = decide(own, words, tokens[of], sensed[of])
        states.append(state)
        attention.append(a)
        first += steps
    states, attention = torch.cat(states), torch.cat(attention)
    predicted = {name: torch.tanh(linear(heads, f"walk.{name}", states)) for name in ["waypoint", "progress"]}
    squares = (predicted["waypoint"] - waypoints).square().sum(-1).split(STEPS)
    losses = dict(waypoint=torch.stack([s.mean() for s in squares]).mean(), progress=F.mse_loss(predicted["progress"], progress))
    losses["path"], target = kl(attention, distances, None, True)
    resized = lambda x: F.interpolate(x[:, None].double(), (SEMANTIC, SEMANTIC), mode="nearest")[:, 0].long()
    losses["hallucinate"] = F.cross_entropy(logits, resized(classes))
    total = sum(TOTAL[name] * loss for name, loss in losses.items())
    counted = (resized(seen) > 0) & (resized(classes) > 0)
    others = dict(
        path_sample=kl(attention, distances, (1, 2), True)[0].detach(),
        path_sum=kl(attention, distances, None, False)[0].detach(),
        hallucinate_seen=F.cross_entropy(logits.movedim(1, -1)[counted], resized(classes)[counted]).detach(),
    )
    x = {f"backbone.map.{name}": value for name, value in own.items()}
    x |= {f"backbone.text.{name}": value for name, value in text.items()} | heads
    x |= dict(ids=ids, maps=maps, views=views, seen=seen, classes=classes, distances=distances, waypoints=waypoints, progress=progress)
    outputs = {f"loss_{name}": loss for name, loss in (losses | others).items()}
    outputs |= dict(total=total, states=states, attention=attention, target=target, logits=logits.flatten(2).mT)
    outputs |= {f"predicted_{name}": value for name, value in predicted.items()}
    write(out / "walk.safetensors", x, outputs, {"": total}, scalar="total")
    print({name: round(value.item(), 4) for name, value in (losses | others).items()})


if __name__ == "__main__":
    main()
