"""Times a step of CCLM or SIMLA in PyTorch, as `unimo-dev bench recipe` times ours on tests/reference/{cclm,simla}_small.toml.

  python step_bench.py {images|texts|simla} [--batch 8] [--steps 5] [--warmup 2] [--threads N] [--compile]

`images` and `texts` are the two kinds of batches of CCLM: contrast, matching with two drawn wrong partners for each pair, and hidden words.
`simla` has both directions, codes of hidden patches, key words and the teacher's soft targets. Sizes are those of our `small`: width 384, 12
layers of the image encoder at 224 pixels, 50 words, 50,265 tokens; CCLM has 6 layers for texts and 6 above, SIMLA 12 that are shared. Texts
of a step go through the encoder as one batch, heads read hidden words alone, dropout is 0.1 but in the image encoder: the same work.
Prints one JSON line: seconds per step (median of the timed ones) and peak memory. (pip install torch transformers)
"""
import argparse
import copy
import json
import resource
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
import transformers as tf

WIDTH, HEADS, INNER, LAYERS, ABOVE, PIXELS, WORDS, LENGTH = 384, 6, 1536, 12, 6, 224, 50265, 50
DROPOUT, HIDDEN, PROJECTED, QUEUE, CODES, HIDDEN_PATCHES, EPS = 0.1, 12, 256, 4096, 64, 59, 1e-5


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x, y, weights=False):
        split = lambda t: t.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        q, k, v = split(self.query(x)), split(self.key(y)), split(self.value(y))
        dropout = DROPOUT if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)
        read = F.dropout(self.output(read), DROPOUT, self.training)
        return (read, (q[:, :, :1] @ k.mT / q.shape[-1] ** 0.5).softmax(-1)[:, :, 0]) if weights else read


class Block(nn.Module):
    def __init__(self, crossed=False):
        super().__init__()
        self.attention, self.inner, self.outer = Attention(), nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.attention_norm, self.norm = nn.LayerNorm(WIDTH, EPS), nn.LayerNorm(WIDTH, EPS)
        if crossed:
            self.cross, self.cross_norm = Attention(), nn.LayerNorm(WIDTH, EPS)

    def forward(self, x, memory=None):
        x = self.attention_norm(x + self.attention(x, x))
        if memory is not None:
            x = self.cross_norm(x + self.cross(x, memory))
        return self.norm(x + F.dropout(self.outer(F.gelu(self.inner(x))), DROPOUT, self.training))


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places, self.norm = nn.Embedding(WORDS, WIDTH), nn.Embedding(514, WIDTH), nn.LayerNorm(WIDTH, EPS)

    def finish(self, x):
        return F.dropout(self.norm(x + self.places.weight[2 : 2 + x.shape[1]]), DROPOUT, self.training)

    def forward(self, ids):
        return self.finish(self.words(ids))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.norm, self.bias = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH, EPS), nn.Parameter(torch.zeros(WORDS))

    def forward(self, states, embedding):
        return self.norm(F.gelu(self.dense(states))) @ embedding.T + self.bias


class Model(nn.Module):
    def __init__(self, simla):
        super().__init__()
        self.embedding, self.words = Embedding(), Words()
        self.text = nn.ModuleList(Block(simla) for _ in range(LAYERS if simla else ABOVE))
        self.above = nn.ModuleList() if simla else nn.ModuleList(Block(True) for _ in range(ABOVE))
        self.image = tf.CLIPVisionModel(tf.CLIPVisionConfig(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                                                            intermediate_size=INNER, image_size=PIXELS, patch_size=16))
        self.of_text, self.of_image = nn.Linear(WIDTH, PROJECTED), nn.Linear(WIDTH, PROJECTED)
        self.matching = nn.Sequential(nn.Linear(WIDTH, 2)) if simla else nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.LayerNorm(2 * WIDTH, EPS), nn.GELU(), nn.Linear(2 * WIDTH, 2))
        self.scale = nn.Parameter(torch.tensor(2.66))
        if simla:
            self.hidden_patch, self.codes, self.key_words = nn.Parameter(torch.zeros(WIDTH)), nn.Linear(WIDTH, CODES), nn.Linear(PROJECTED, WORDS)

    def images(self, pixels, hidden=None):
        own = getattr(self.image, "vision_model", self.image)
        x = own.embeddings(pixels)
        if hidden is not None:
            x = torch.cat([x[:, :1], torch.where(hidden[:, :, None], self.hidden_patch, x[:, 1:])], 1)
        return own.post_layernorm(own.encoder(inputs_embeds=own.pre_layrnorm(x)).last_hidden_state)

    def texts(self, ids):
        x = self.embedding(ids)
        for block in self.text:
            x = block(x)
        return x

    def fuse(self, x, memory, weights=False):
        """A text's states over a memory (CCLM), or embeddings over states of the other modality (SIMLA)."""
        for block in self.above or self.text:
            before, x = x, block(x, memory)
        return (x, block.attention(before, before, weights=True)[1]) if weights else x

    def space(self, states, projection):
        return F.normalize(projection(states[:, 0]), dim=-1)


def wrong(similarity):
    similarity = similarity.detach().clone().fill_diagonal_(-torch.inf)
    return [torch.multinomial(s.softmax(-1), 1)[:, 0] for s in (similarity, similarity.T)]


def match(model, texts, memories, similarity):
    other_memory, other_text = wrong(similarity)
    rows = len(texts)
    fused = model.fuse(torch.cat([texts, texts, texts[other_text]]), torch.cat([memories, memories[other_memory], memories]))
    return F.cross_entropy(model.matching(fused[:, 0]), torch.tensor([1] * rows + [0] * 2 * rows))


def contrast(similarity, rows):
    return (F.cross_entropy(similarity, rows) + F.cross_entropy(similarity.T, rows)) / 2


def cclm(model, kind, batch):
    rows, at = torch.arange(len(batch["ids"])), batch["at"]
    if kind == "images":
        texts, masked = model.texts(torch.cat([batch["ids"], batch["masked"]])).chunk(2)
        query, memory, clean = texts, model.images(batch["pixels"]), None
        features = model.space(texts, model.of_text), model.space(memory, model.of_image)
        clean = memory
    else:
        texts, masked, other = model.texts(torch.cat([batch["ids"], batch["masked"], batch["other"]])).chunk(3)
        query, memory, clean = other, texts, other
        features = model.space(other, model.of_text), model.space(texts, model.of_text)
    similarity = features[0] @ features[1].T * model.scale.exp()
    loss = contrast(similarity, rows) + match(model, query, memory, similarity)
    words = model.fuse(masked, clean).gather(1, at[:, :, None].expand(-1, -1, WIDTH)).flatten(0, 1)
    return loss + F.cross_entropy(model.words(words, model.embedding.words.weight), batch["labels"].flatten())


def soft(scores, expected, labels):
    return 0.6 * F.cross_entropy(scores, labels) - 0.4 * (expected.softmax(-1) * scores.log_softmax(-1)).sum(-1).mean()


def simla(model, teacher, queues, batch):
    ids, masked, pixels, hidden = (batch[name] for name in ["ids", "masked", "pixels", "hidden"])
    at = batch["at"][:, :, None].expand(-1, -1, WIDTH)
    hidden_states = lambda image: image[:, 1:][hidden]
    words_of = lambda m, states: m.words(states.gather(1, at).flatten(0, 1), m.embedding.words.weight)
    with torch.no_grad():
        of_image = teacher.images(pixels)
        features = teacher.space(teacher.texts(ids), teacher.of_text), teacher.space(of_image, teacher.of_image)
        expected = words_of(teacher, teacher.fuse(teacher.embedding(masked), of_image))
        codes = teacher.codes(hidden_states(teacher.fuse(teacher.embedding.finish(teacher.images(pixels, hidden)), teacher.embedding(ids))))
        attended = teacher.fuse(teacher.embedding(ids), of_image, weights=True)[1]
        likely = teacher.key_words(features[1]).sigmoid()
        y = torch.zeros_like(likely).scatter_(1, ids.gather(1, attended.sum(1).topk(5).indices), 1.0)
    image, image_hidden = model.images(torch.cat([pixels, pixels]), torch.cat([torch.zeros_like(hidden), hidden])).chunk(2)
    text = model.texts(ids)
    own = model.space(text, model.of_text), model.space(image, model.of_image)
    loss = 0
    for mine, theirs, queue, same in ((own[0], features[1], queues[1], features[0]), (own[1], features[0], queues[0], features[1])):
        scores, target = (f @ torch.cat([theirs, queue]).T * model.scale.exp() for f in (mine, same))
        loss = loss + soft(scores, target.detach(), torch.arange(len(ids))) / 2
    embedded = model.embedding(ids)
    loss = loss + match(model, embedded, image, own[0] @ own[1].T * model.scale.exp())
    loss = loss + soft(words_of(model, model.fuse(model.embedding(masked), image)), expected, batch["labels"].flatten())
    filled = hidden_states(model.fuse(model.embedding.finish(image_hidden), embedded))
    loss = loss + soft(model.codes(filled), codes, batch["codes"])
    loss = loss + F.binary_cross_entropy_with_logits(model.key_words(own[1]), 0.6 * y + 0.4 * likely)
    for name, feature in enumerate(features):
        queues[name] = torch.cat([feature, queues[name]])[:QUEUE]
    return loss


def made(batch):
    hidden = torch.stack([torch.randperm(196) < HIDDEN_PATCHES for _ in range(batch)])
    ids, other = (torch.randint(5, WORDS, (batch, LENGTH)) for _ in range(2))
    at = torch.stack([torch.randperm(LENGTH - 1)[:HIDDEN] + 1 for _ in range(batch)])
    return dict(ids=ids, other=other, masked=ids.scatter(1, at, 4), at=at, labels=ids.gather(1, at), hidden=hidden,
                pixels=torch.randn(batch, 3, PIXELS, PIXELS), codes=torch.randint(0, CODES, (batch * HIDDEN_PATCHES,)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["images", "texts", "simla"])
    for name, value in [("batch", 8), ("steps", 5), ("warmup", 2), ("threads", 0)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = Model(args.kind == "simla").train()
    teacher = copy.deepcopy(model).eval().requires_grad_(False) if args.kind == "simla" else None
    queues = [F.normalize(torch.randn(QUEUE, PROJECTED), dim=-1) for _ in range(2)]
    optimizer = torch.optim.AdamW([p for p in model.parameters()], lr=1e-5)
    loss_of = (lambda batch: simla(model, teacher, queues, batch)) if teacher else (lambda batch: cclm(model, args.kind, batch))
    if args.compile:
        loss_of = torch.compile(loss_of)
    seconds = []
    for _ in range(args.warmup + args.steps):
        batch, began = made(args.batch), time.perf_counter()
        loss = loss_of(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if teacher:
            with torch.no_grad():
                for theirs, mine in zip(teacher.parameters(), model.parameters()):
                    theirs.lerp_(mine, 0.005)
        float(loss)
        seconds.append(time.perf_counter() - began)
    print(json.dumps(dict(peer=f"torch {torch.__version__}", kind=args.kind, batch=args.batch, threads=torch.get_num_threads(),
                          seconds=round(statistics.median(seconds[args.warmup :]), 4),
                          peak_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2))))


if __name__ == "__main__":
    main()
