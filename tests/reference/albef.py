"""Writes tests/fixtures/albef: a toy ALBEF with its teacher, three steps long, and its weights under the release's names.

Usage: python albef.py OUT_DIR      (pip install torch safetensors; written with torch 2.15)

    albef.pth               what the release saves: {"model": ..., "optimizer": ..., "epoch": ..., "config": ...}
    steps.safetensors       batches, losses, gradients, and the teacher and its queues after three steps

Plain PyTorch from the definitions of the paper and the release: an image encoder, one BERT whose lower layers read texts and whose
upper ones also read the image, contrast with a queue and soft targets, matching with hard negatives, hidden words with soft targets.
Computed in float64, stored as float32. In each step plain gradient descent moves all weights but the temperature, then the teacher
moves (the release moves it before the next forward pass, which is the same). The hardest negatives are taken where the release draws
some, by the student's similarities, so that nothing is drawn; each choice is clear by MARGIN. Every sample shows another image.
"""
import copy
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

MARGIN = 1e-4
WIDTH, HEADS, INNER, WORDS, LENGTH, SPACE, QUEUE = 8, 2, 16, 30, 5, 6, 8
SAMPLES, STEPS, RATE, DECAY, ALPHA, RAMP, PATCH = 4, 3, 0.05, 0.9, 0.4, 2, 4


def attention(q, k, v, hidden=None):
    """q, k, v: [B, N, D]; hidden: [B, K], True hides a key."""
    heads = lambda x: x.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    scores = heads(q) @ heads(k).transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
    if hidden is not None:
        scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
    return (scores.softmax(-1) @ heads(v)).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """A pre-norm block of the image encoder, in timm's names."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x):
        x = x + self.attn.proj(attention(*self.attn.qkv(self.norm1(x)).chunk(3, -1)))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.empty(1, 5, WIDTH))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, pixels):
        x = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Attention(nn.Module):
    """Attention, its residual and its norm, in BERT's names."""

    def __init__(self):
        super().__init__()
        self.self, self.output = nn.Module(), nn.Module()
        for name in ("query", "key", "value"):
            setattr(self.self, name, nn.Linear(WIDTH, WIDTH))
        self.output.dense, self.output.LayerNorm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x, memory, hidden=None):
        read = attention(self.self.query(x), self.self.key(memory), self.self.value(memory), hidden)
        return self.output.LayerNorm(x + self.output.dense(read))


class Layer(nn.Module):
    def __init__(self, reads_image):
        super().__init__()
        self.attention = Attention()
        if reads_image:
            self.crossattention = Attention()
        self.intermediate, self.output = nn.Module(), nn.Module()
        self.intermediate.dense, self.output.dense = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.output.LayerNorm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x, hidden, image=None):
        x = self.attention(x, x, hidden)
        if image is not None:
            x = self.crossattention(x, image)
        return self.output.LayerNorm(x + self.output.dense(F.gelu(self.intermediate.dense(x))))


class Text(nn.Module):
    """One layer reads texts alone, two also read the image."""

    def __init__(self):
        super().__init__()
        self.bert, self.cls = nn.Module(), nn.Module()
        self.bert.embeddings, self.bert.encoder = e, _ = nn.Module(), nn.Module()
        e.word_embeddings, e.position_embeddings = nn.Embedding(WORDS, WIDTH), nn.Embedding(12, WIDTH)
        e.token_type_embeddings, e.LayerNorm = nn.Embedding(2, WIDTH), nn.LayerNorm(WIDTH, eps=1e-12)
        self.bert.encoder.layer = nn.ModuleList([Layer(False), Layer(True), Layer(True)])
        self.cls.predictions = p = nn.Module()
        p.transform, p.decoder = nn.Module(), nn.Linear(WIDTH, WORDS)
        p.transform.dense, p.transform.LayerNorm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH, eps=1e-12)
        p.decoder.weight, p.bias = e.word_embeddings.weight, p.decoder.bias

    def read(self, ids, hidden):
        e = self.bert.embeddings
        x = e.word_embeddings(ids) + e.token_type_embeddings.weight[0]
        x = e.LayerNorm(x + e.position_embeddings.weight[: ids.shape[1]])
        return self.bert.encoder.layer[0](x, hidden)

    def fuse(self, x, hidden, image):
        for layer in self.bert.encoder.layer[1:]:
            x = layer(x, hidden, image)
        return x

    def logits(self, x):
        p = self.cls.predictions
        return p.decoder(p.transform.LayerNorm(F.gelu(p.transform.dense(x))))


class Albef(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual_encoder, self.text_encoder = Image(), Text()
        self.vision_proj, self.text_proj = nn.Linear(WIDTH, SPACE), nn.Linear(WIDTH, SPACE)
        self.itm_head, self.temp = nn.Linear(WIDTH, 2), nn.Parameter(torch.tensor(0.07))

    def features(self, batch):
        image, text = self.visual_encoder(batch["pixels"]), self.text_encoder.read(batch["ids"], batch["hidden"])
        project = lambda head, x: F.normalize(head(x[:, 0]), dim=-1)
        return image, text, project(self.vision_proj, image), project(self.text_proj, text)


def soft_ce(scores, targets, axis=-1):
    return -(scores.log_softmax(axis) * targets).sum(-1)


def hardest(similarity):
    others = similarity.masked_fill(torch.eye(SAMPLES).bool(), -torch.inf)
    best = others.topk(2).values
    assert (best[:, 0] - best[:, 1]).min() > MARGIN
    return others.argmax(1)


def losses(model, teacher, queues, batch, alpha, axis):
    image, text, f_image, f_text = model.features(batch)
    hidden = batch["hidden"]
    masked = batch["labels"] >= 0
    with torch.no_grad():
        image_m, _, t_image, t_text = teacher.features(batch)
        all_images, all_texts = torch.cat([t_image, queues[0]]), torch.cat([t_text, queues[1]])
        hard = torch.eye(SAMPLES, SAMPLES + QUEUE)
        soft = lambda own, all: alpha * (own @ all.T / model.temp).softmax(1) + (1 - alpha) * hard
        targets = soft(t_text, all_images), soft(t_image, all_texts)
        words_m = teacher.text_encoder.fuse(teacher.text_encoder.read(batch["masked"], hidden), hidden, image_m)
        words_m = teacher.text_encoder.logits(words_m).softmax(-1)
    itc = soft_ce(f_text @ all_images.T / model.temp, targets[0]) + soft_ce(f_image @ all_texts.T / model.temp, targets[1])
    itc = itc.mean() / 2
    similarity = (f_text @ f_image.T).detach()
    wrong_image, wrong_text = hardest(similarity), hardest(similarity.T)
    texts, hiddens = torch.cat([text, text, text[wrong_text]]), torch.cat([hidden, hidden, hidden[wrong_text]])
    pairs = model.text_encoder.fuse(texts, hiddens, torch.cat([image, image[wrong_image], image]))
    matched = torch.cat([torch.ones(SAMPLES), torch.zeros(2 * SAMPLES)]).long()
    itm = F.cross_entropy(model.itm_head(pairs[:, 0]), matched)
    words = model.text_encoder.fuse(model.text_encoder.read(batch["masked"], hidden), hidden, image)
    words = model.text_encoder.logits(words)
    distilled = soft_ce_over(words, words_m, axis)[masked].mean()
    mlm = (1 - alpha) * F.cross_entropy(words[masked], batch["labels"][masked]) + alpha * distilled
    return {"itc": itc, "itm": itm, "mlm": mlm}, (t_image, t_text)


def soft_ce_over(words, targets, axis):
    # dim=1, the positions, is a slip of the release.
    return -(words.log_softmax({"vocabulary": 2, "sequence": 1}[axis]) * targets).sum(-1)


def batches(generator):
    lengths = torch.tensor([5, 4, 5, 3])
    hidden = torch.arange(LENGTH) >= lengths[:, None]
    for _ in range(STEPS):
        ids = torch.randint(5, WORDS, (SAMPLES, LENGTH), generator=generator)
        ids[:, 0], ids[hidden] = 1, 0
        labels, masked = torch.full_like(ids, -100), ids.clone()
        for row, at in enumerate([1, 2, 3, 1]):
            labels[row, at], masked[row, at] = ids[row, at], 3
        levels = torch.randint(0, 256, (SAMPLES, 3, 2 * PATCH, 2 * PATCH), generator=generator)
        pixels = (levels / 255 - 0.5) / 0.5
        yield {"ids": ids, "masked": masked, "labels": labels, "levels": levels, "pixels": pixels.double(), "hidden": hidden}


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(10)
    model = Albef()
    for name, parameter in model.named_parameters():
        if name != "temp":
            noise = torch.randn(parameter.shape, generator=generator) * 0.4 + (1 if "orm" in name and "weight" in name else 0)
            parameter.data = noise.float().double()
        else:
            parameter.data = parameter.data.float().double()
    teacher = copy.deepcopy(model)
    queue = lambda: F.normalize(torch.randn(QUEUE, SPACE, generator=generator), dim=-1).float().double()
    queues = [queue(), queue()]
    state = dict(model.state_dict())
    state |= {f"{name.split('.')[0]}_m.{name.split('.', 1)[1]}": value for name, value in state.items()
              if name.split(".")[0] in ("visual_encoder", "text_encoder", "vision_proj", "text_proj")}
    state |= {"image_queue": queues[0].T, "text_queue": queues[1].T, "queue_ptr": torch.zeros(1, dtype=torch.long),
              "text_encoder.bert.embeddings.position_ids": torch.arange(12)[None]}
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    torch.save({"model": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "epoch": 29,
                "lr_scheduler": {"t_initial": 30}, "config": {"image_res": 256, "temp": 0.07}}, out / "albef.pth")
    tensors = {"start.image_queue": queues[0].clone(), "start.text_queue": queues[1].clone()}
    for step, batch in enumerate(batches(generator)):
        alpha = ALPHA * min(1, step / RAMP)
        found, _ = losses(model, teacher, queues, batch, alpha, "sequence")
        tensors[f"{step}.mlm_sequence"] = found["mlm"]
        found, features = losses(model, teacher, queues, batch, alpha, "vocabulary")
        model.zero_grad()
        sum(found.values()).backward()
        tensors |= {f"{step}.{name}": value for name, value in (batch | found).items() if name not in ("pixels", "hidden")}
        for name, parameter in model.named_parameters():
            tensors[f"{step}.grad.{name}"] = parameter.grad.clone()
            if name != "temp":
                parameter.data -= RATE * parameter.grad
        for own, other in zip(teacher.parameters(), model.parameters()):
            own.data = DECAY * own.data + (1 - DECAY) * other.data
        at = (step * SAMPLES) % QUEUE
        for queue, new in zip(queues, features):
            queue[at : at + SAMPLES] = new
    tensors |= {f"teacher.{name}": value for name, value in teacher.named_parameters() if name not in ("temp",) and "itm" not in name}
    tensors |= {"end.image_queue": queues[0], "end.text_queue": queues[1]}
    tensors = {name: value.detach().float() if value.is_floating_point() else value for name, value in tensors.items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, out / "steps.safetensors")
    print(sum(file.stat().st_size for file in out.iterdir()), "bytes", {k: v.item() for k, v in found.items()})


if __name__ == "__main__":
    main()
