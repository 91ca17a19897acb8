"""Writes tests/fixtures/grounded: UNIMO-2's quantisers, grounded encoder and heads at toy size, with outputs and gradients.

Usage: python grounded.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

Plain PyTorch from the definitions of the paper, computed in float64 and stored as float32; indices are int64, masks uint8 with
1 = visible. A file holds inputs and weights (linear weights [in, out]), outputs, and `grad.NAME`, the gradient of the scalar that
the metadata name, for every float that is not one of the scalar's own factors w*. Where a file computes two things, outputs and
gradients of each carry its prefix. The metadata also hold the sizes that shapes do not tell. Every choice among candidates
(top-k, nearest code, best region, relu) is clear by MARGIN at least. The gradient of `attention.key.bias` is 0 but for rounding:
softmax does not see it.
"""
import json
import pathlib
import struct
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save

MARGIN = 1e-3
EPS = 1e-5
HEADS, LAYERS, WIDTH, INNER = 2, 2, 8, 16
# Added to the sums of similarities that the quantiser divides by.
TINY = 1e-18


class Draw:
    """Seeded leaves, rounded to what float32 holds, so that the file has the very numbers that were computed with."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def noise(self, *shape):
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def __call__(self, *shape, scale=1.0):
        return leaf(self.noise(*shape) * scale)

    def factors(self, **shapes):
        """Of the scalar; they take no gradient."""
        return {name: self(*shape).detach() for name, shape in shapes.items()}

    def linear(self, name, d_in, d_out, bias=True):
        weights = {f"{name}.weight": self(d_in, d_out, scale=d_in**-0.5)}
        return weights | ({f"{name}.bias": self(d_out, scale=0.2)} if bias else {})

    def norm(self, name, width=WIDTH):
        """Away from 1 and 0, so that no slip in a name stays hidden."""
        return {f"{name}.weight": leaf(1 + 0.2 * self.noise(width)), f"{name}.bias": self(width, scale=0.2)}

    def layers(self):
        weights = {}
        for n in range(LAYERS):
            for part in ["query", "key", "value", "output"]:
                weights |= self.linear(f"layers.{n}.attention.{part}", WIDTH, WIDTH)
            weights |= self.norm(f"layers.{n}.attention_norm")
            weights |= self.linear(f"layers.{n}.feed_forward.inner", WIDTH, INNER)
            weights |= self.linear(f"layers.{n}.feed_forward.outer", INNER, WIDTH)
            weights |= self.norm(f"layers.{n}.feed_forward_norm")
        return weights

    def head(self, entries):
        """Of masked language modelling: the rows of `embedding` are the decoder's."""
        tied = {"embedding": self(entries, WIDTH, scale=0.7), "bias": self(entries, scale=0.2)}
        return self.linear("dense", WIDTH, WIDTH) | self.norm("norm") | tied


def leaf(values):
    return values.float().double().requires_grad_()


def linear(w, name, x):
    y = x @ w[f"{name}.weight"]
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def norm(w, name, x):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], EPS)


def layers(w, x, allowed):
    """Post-LN blocks on x [B, L, D]; allowed [B, L, L] says which keys a query sees."""
    split = lambda t: t.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    for n in range(LAYERS):
        q, k, v = (split(linear(w, f"layers.{n}.attention.{part}", x)) for part in ["query", "key", "value"])
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~allowed[:, None], -torch.inf)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = norm(w, f"layers.{n}.attention_norm", x + linear(w, f"layers.{n}.attention.output", attended))
        fed = linear(w, f"layers.{n}.feed_forward.outer", F.gelu(linear(w, f"layers.{n}.feed_forward.inner", x)))
        x = norm(w, f"layers.{n}.feed_forward_norm", x + fed)
    return x


def head(w, states):
    hidden = norm(w, "norm", F.gelu(linear(w, "dense", states)))
    return hidden @ w["embedding"].T + w["bias"]


def write(path, x, outputs, scalars, **metadata):
    """x: name -> tensor, a leaf where a gradient is wanted; scalars: prefix -> what is differentiated."""
    tensors = x | outputs
    leaves = {name: t for name, t in x.items() if t.requires_grad}
    for prefix, scalar in scalars.items():
        gradients = torch.autograd.grad(scalar, list(leaves.values()), retain_graph=True)
        for (name, _), gradient in zip(leaves.items(), gradients):
            least = 1e-2 if "key.bias" not in name else 0.0
            assert gradient.abs().max() >= least, f"{path.name}: {prefix}grad.{name} is nearly 0"
            tensors[f"{prefix}grad.{name}"] = gradient
    stored = {torch.float64: torch.float32, torch.bool: torch.uint8, torch.int64: torch.int64}
    own = lambda t: t.detach().to(stored[t.dtype]).contiguous().clone()
    data = save({name: own(t if t.ndim else t.reshape(1)) for name, t in tensors.items()})
    # safetensors writes metadata in a random order; this way a second run writes the same bytes.
    size = struct.unpack("<Q", data[:8])[0]
    header = {"__metadata__": {k: str(v) for k, v in sorted(metadata.items())}} | json.loads(data[8 : 8 + size])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def clear(values, k=1):
    """The k largest of the last axis are apart from each other and from the rest."""
    ordered = values.sort(-1, descending=True).values
    gaps = ordered[..., :k] - ordered[..., 1 : k + 1]
    assert gaps.min() >= MARGIN, f"a choice is not clear: {gaps.min():.1e}"


def top_k(h, visible, codebook, tau, k):
    """h [B, N, D], visible [B, N] -> the chosen codes, their indices and both losses; `detach` is the stop-gradient."""
    scores = tau * (h @ codebook.T)
    assert scores[visible].abs().max() < 4, "a sigmoid is saturated"
    s = torch.sigmoid(scores) * visible[..., None]
    a = s.sum(1)
    clear(a, k)
    indices = a.topk(k).indices
    g = codebook[indices]
    s_k = torch.stack([s[b, :, indices[b]] for b in range(len(s))])
    a_k = torch.stack([a[b, indices[b]] for b in range(len(a))])
    of_positions = s_k.mT @ h / (a_k[..., None] + TINY)
    of_codes = s_k @ g / (s_k.sum(-1, keepdim=True) + TINY)
    loss_e = ((g.detach() - of_positions) ** 2).mean()
    loss_q = ((h.detach() - of_codes) ** 2)[visible].mean()
    losses = {"loss_q": loss_q, "loss_e": loss_e, "loss": loss_q + 0.25 * loss_e}
    return g, {"indices": indices} | losses, {"similarity": s, "a": a}


def nearest(h, visible, codebook, k):
    """As top_k, with the nearest code of each position; also which of the k rows are real."""
    distances = torch.stack([(h - code).square().sum(-1).sqrt() for code in codebook], -1)
    clear(-distances[visible])
    closest = distances.argmin(-1)
    assigned = closest.masked_fill(~visible, -1)
    counts = torch.stack([(assigned == c).sum(-1) for c in range(len(codebook))], -1)
    indices, real = torch.zeros(len(h), k, dtype=torch.int64), torch.zeros(len(h), k, dtype=torch.bool)
    for b, of in enumerate(counts.tolist()):
        chosen = sorted((c for c in range(len(of)) if of[c]), key=lambda c: (-of[c], c))[:k]
        indices[b, : len(chosen)], real[b, : len(chosen)] = torch.tensor(chosen), True
    e = codebook[closest]
    loss_q = ((h.detach() - e) ** 2)[visible].mean()
    loss_e = ((h - e.detach()) ** 2)[visible].mean()
    losses = {"loss_q": loss_q, "loss_e": loss_e, "loss": loss_q + 0.25 * loss_e}
    choice = {"assigned": assigned, "counts": counts, "indices": indices, "grounded_visible": real}
    return codebook[indices], choice | losses


def write_top_k(path):
    draw = Draw(10)
    x = {"h": draw(3, 7, 8, scale=0.4), "visible": VISIBLE, "codebook": draw(16, 8, scale=0.8), "tau": leaf(torch.tensor([1.2]))}
    x |= draw.factors(w=(3, 5, 8))
    g, outputs, inner = top_k(x["h"], VISIBLE, x["codebook"], x["tau"], 5)
    scalar = outputs["loss"] + (g * x["w"]).sum()
    outputs |= inner | {"g": g, "scalar": scalar}
    write(path, x, outputs, {"": scalar}, k=5, scalar="loss + sum(g * w)", of_loss_e=0.25)


def write_nearest(path):
    draw = Draw(2)
    codebook = draw(16, 8, scale=2.0)
    # More codes than rows with one dropped; a tie and padding; exactly as many codes as rows. Code 0 is nobody's, so that a
    # gradient that leaks through the padding shows. 0 stands at the hidden positions.
    plan = torch.tensor([[3, 9, 11, 7, 14, 2, 9], [12, 5, 12, 4, 5, 0, 0], [15, 1, 0, 10, 13, 8, 0]])
    h = leaf(codebook.detach()[plan] + draw.noise(3, 7, 8))
    x = {"h": h, "visible": VISIBLE, "codebook": codebook} | draw.factors(w=(3, 5, 8))
    g, outputs = nearest(h, VISIBLE, codebook, 5)
    assert (outputs["assigned"] == plan.masked_fill(~VISIBLE, -1)).all()
    assert outputs["indices"].tolist() == [[9, 2, 3, 7, 11], [5, 12, 4, 0, 0], [1, 8, 10, 13, 15]]
    real = outputs["grounded_visible"]
    scalar = outputs["loss"] + (g * x["w"])[real].sum()
    outputs |= {"g": g, "scalar": scalar}
    write(path, x, outputs, {"": scalar}, k=5, scalar="loss + sum over real rows of g * w", of_loss_e=0.25)


# Hidden positions at the end and in the middle.
VISIBLE = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 1, 0]]).bool()
LENGTHS = [4, 3]


def grounded(w, x, causal):
    """The grounded transformer on [V; G; T], either of V and T absent; position 0 of each is the class, which is not quantised."""
    kinds = [name for name in ["V", "T"] if name in x]
    shown = {"V": torch.ones(2, 5).bool(), "T": x.get("text_visible")}
    # Captioning must not ground on the text that it is to write.
    read = ["V"] if causal else kinds
    h, visible = torch.cat([x[name][:, 1:] for name in read], 1), torch.cat([shown[name][:, 1:] for name in read], 1)
    codes, outputs, _ = top_k(h, visible, w["quantiser.codebook"], w["quantiser.tau"], 3)
    parts = {"V": x.get("V"), "G": norm(w, "norm", codes), "T": x.get("T")}
    shown["G"] = torch.ones(2, 3).bool()
    order = [name for name in "VGT" if parts[name] is not None]
    sees = {"V": "VG", "G": "VG", "T": "VGT"} if causal else {"V": "VG", "G": "VGT", "T": "GT"}
    kind = [name for name in order for _ in range(parts[name].shape[1])]
    # Within T the order of positions is that of the whole sequence.
    later = lambda i, j: causal and kind[i] == kind[j] == "T" and j > i
    all = range(len(kind))
    pairs = torch.tensor([[kind[j] in sees[kind[i]] and not later(i, j) for j in all] for i in all])
    allowed = pairs & torch.cat([shown[name] for name in order], 1)[:, None]
    out = layers(w, torch.cat([parts[name] for name in order], 1), allowed)
    of = dict(zip(order, out.split([parts[name].shape[1] for name in order], 1)))
    # Only what is visible counts in the scalar.
    scalar = outputs["loss"] + sum((of[name] * x[f"w{name.lower()}"])[shown[name]].sum() for name in order)
    return {name.lower(): of[name] for name in order} | outputs | {"scalar": scalar}


def write_encoders(folder):
    draw = Draw(3)
    w = {"quantiser.codebook": draw(12, 8, scale=0.3), "quantiser.tau": leaf(torch.tensor([1.2]))}
    w |= draw.norm("norm") | draw.layers()
    shown = torch.arange(4) < torch.tensor(LENGTHS)[:, None]
    texts = {"T": draw(2, 4, 8), "text_visible": shown} | draw.factors(wt=(2, 4, 8))
    images = {"V": draw(2, 5, 8)} | draw.factors(wv=(2, 5, 8))
    g = draw.factors(wg=(2, 3, 8))
    files = {
        "encoder": (images | texts, False),
        "captioning": (images | texts, True),
        "image_only": (images, False),
        "text_only": (texts, False),
    }
    of = {}
    for name, (inputs, causal) in files.items():
        x = inputs | g
        of[name] = grounded(w, x, causal)
        terms = [f"sum({part} * w{part})" for part in "vg" if part in of[name]]
        terms += ["sum over visible t * wt"] if "T" in x else []
        sizes = {"text_lengths": ",".join(map(str, LENGTHS))} if "T" in x else {}
        sizes |= dict(k=3, heads=HEADS, layers=LAYERS, eps=EPS, of_loss_e=0.25, scalar=" + ".join(["loss", *terms]))
        write(folder / f"{name}.safetensors", x | w, of[name], {"": of[name]["scalar"]}, **sizes)
    assert all(torch.allclose(of["captioning"][part], of["image_only"][part]) for part in "vg"), "text leaks into V or G"


def write_itm(path):
    draw = Draw(9)
    x = {"texts": draw(6, 8), "images": draw(6, 8), "labels": torch.tensor([1, 0, 1, 1, 0, 0])}
    x |= draw.linear("text", 8, 8) | draw.linear("image", 8, 8) | draw.linear("classifier", 8, 2)
    text, image = linear(x, "text", x["texts"]), linear(x, "image", x["images"])
    assert min(text.abs().min(), image.abs().min()) >= MARGIN
    product = text.relu() * image.relu()
    assert (product > 0).any(0).all() and (product > 0).any(1).all(), "a unit or a pair is dead"
    logits = linear(x, "classifier", product)
    loss = F.cross_entropy(logits, x["labels"])
    write(path, x, {"logits": logits, "loss": loss}, {"": loss}, scalar="loss")


def write_cmcl(path):
    draw = Draw(5)
    # A common part and texts of different lengths below 1.5 keep softmax away from 0 and 1 with either normalisation.
    common = draw.noise(8)
    lengths = torch.tensor([0.5, 0.8, 1.1, 1.4])[:, None]
    texts = leaf(F.normalize(common + 0.6 * draw.noise(4, 8)) * lengths)
    images = leaf(common + 0.6 * draw.noise(4, 8))
    x = {"texts": texts, "images": images, "temperature": leaf(torch.tensor([0.07]))}
    unit = lambda t: t / t.square().sum(-1, keepdim=True).sqrt()
    outputs, scalars, labels = {}, {}, torch.arange(4)
    for prefix, of_text in {"both.": unit(texts), "quirk.": texts}.items():
        logits = of_text @ unit(images).T / x["temperature"]
        assert max(logits.softmax(0).max(), logits.softmax(1).max()) < 0.98
        scalars[prefix] = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        outputs |= {f"{prefix}logits": logits, f"{prefix}loss": scalars[prefix]}
    write(path, x, outputs, scalars, scalar="loss")


def write_mlm(path):
    draw = Draw(6)
    x = {"states": draw(5, 8), "labels": torch.tensor([4, 0, 10, 4, 7])} | draw.head(11)
    logits = head(x, x["states"])
    loss = F.cross_entropy(logits, x["labels"])
    write(path, x, {"logits": logits, "loss": loss}, {"": loss}, scalar="loss", eps=EPS)


def main():
    out = pathlib.Path(sys.argv[1])
    write_top_k(out / "topk.safetensors")
    write_nearest(out / "nearest.safetensors")
    write_encoders(out)
    write_itm(out / "itm.safetensors")
    write_cmcl(out / "cmcl.safetensors")
    write_mlm(out / "mlm.safetensors")
    print(sum(file.stat().st_size for file in out.glob("*.safetensors")), "bytes")


if __name__ == "__main__":
    main()
