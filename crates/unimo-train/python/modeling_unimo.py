"""UNIMO-3, UNIMO-2, MVP, METER, BridgeTower and ManagerTower in PyTorch, as unimo trains them.

`unimo export` writes this file beside `model.safetensors` for models that transformers does not know:

    model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
    outputs = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt"), pixel_values=pixels)

What a model has is said by `model` and `objectives` in `config.json`. Parameters have the names of unimo, and the matrices of linear
layers are stored `[in, out]`. So weights that were trained on in PyTorch and saved by `save_pretrained` are read by unimo again.

Shapes: B rows, L positions (Lt of the text, Lv of the image), D width, E width of the common space, S levels, K grounded tokens.
Masks are true where a position is seen.
"""

from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_unimo import UnimoConfig

ACTIVATIONS = {
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


# Layers


class Linear(nn.Module):
    """x W + b, with W `[in, out]`."""

    def __init__(self, d_in, d_out, bias=True):
        super().__init__()
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(d_in, d_out), std=0.02))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    def forward(self, x):
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class Attention(nn.Module):
    """Multi-head attention. `seen` is `[B, K]` or `[B, Q, K]`, or None where everything is seen."""

    def __init__(self, width, heads, dropout, input_bias=True):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = Linear(width, width, input_bias)
        self.key = Linear(width, width, input_bias)
        self.value = Linear(width, width, input_bias)
        self.output = Linear(width, width)

    def attend(self, query, memory, seen):
        """Without the output projection."""
        split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if seen is not None:
            seen = seen[:, None, None] if seen.ndim == 2 else seen[:, None]
        attended = F.scaled_dot_product_attention(
            split(self.query(query)),
            split(self.key(memory)),
            split(self.value(memory)),
            attn_mask=seen,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return attended.transpose(1, 2).flatten(2)

    def forward(self, query, memory, seen=None):
        return self.output(self.attend(query, memory, seen))


class FeedForward(nn.Module):
    def __init__(self, c, width):
        super().__init__()
        self.inner = Linear(width, c["feed_forward"])
        self.outer = Linear(c["feed_forward"], width)
        self.activation = ACTIVATIONS[c["activation"]]

    def forward(self, x):
        return self.outer(self.activation(self.inner(x)))


class PostNormBlock(nn.Module):
    """BERT's block. `c` has the sizes of its encoder."""

    def __init__(self, c):
        super().__init__()
        self.attention = Attention(c["width"], c["heads"], c["dropout"])
        self.attention_norm = nn.LayerNorm(c["width"], eps=c["layer_norm_eps"])
        self.feed_forward = FeedForward(c, c["width"])
        self.feed_forward_norm = nn.LayerNorm(c["width"], eps=c["layer_norm_eps"])
        self.dropout = nn.Dropout(c["dropout"])

    def forward(self, x, seen=None):
        x = self.attention_norm(x + self.dropout(self.attention(x, x, seen)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class PreNormBlock(nn.Module):
    """The block of ViT and CLIP."""

    def __init__(self, c):
        super().__init__()
        self.attention_norm = nn.LayerNorm(c["width"], eps=c["layer_norm_eps"])
        self.attention = Attention(c["width"], c["heads"], c["dropout"], c.get("qkv_bias", True))
        self.feed_forward_norm = nn.LayerNorm(c["width"], eps=c["layer_norm_eps"])
        self.feed_forward = FeedForward(c, c["width"])
        self.dropout = nn.Dropout(c["dropout"])

    def forward(self, x):
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, normed))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def first(states):
    """The state of the first position, `[B, D]`."""
    return states[:, 0]


# Encoders of one modality


class TextEncoder(nn.Module):
    """BERT or RoBERTa. Gives the embeddings and the states after every block."""

    def __init__(self, c):
        super().__init__()
        self.pad_id, self.after_pad = c["pad_id"], c["positions"] == "after_pad"
        self.word_embedding = nn.Embedding(c["vocab_size"], c["width"])
        self.position_embedding = nn.Embedding(c["max_positions"], c["width"])
        self.type_embedding = nn.Embedding(c["token_types"], c["width"])
        self.embedding_norm = nn.LayerNorm(c["width"], eps=c["layer_norm_eps"])
        self.dropout = nn.Dropout(c["dropout"])
        self.layers = nn.ModuleList(PostNormBlock(c) for _ in range(c["layers"]))

    def forward(self, ids, seen, types):
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        if self.after_pad:
            positions = torch.where(seen, positions + self.pad_id + 1, self.pad_id)
        if types is None or self.type_embedding.num_embeddings < 2:
            types = torch.zeros_like(ids)
        x = self.word_embedding(ids) + self.type_embedding(types) + self.position_embedding(positions)
        states = [self.dropout(self.embedding_norm(x))]
        for layer in self.layers:
            states.append(layer(states[-1], seen))
        return states


class ImageEncoder(nn.Module):
    """ViT, DeiT or CLIP's image tower. Gives the embeddings and the states after every block, each after the final norm."""

    def __init__(self, c):
        super().__init__()
        width, self.patch = c["width"], c["patch_size"]
        self.patch_embedding = Linear(3 * self.patch**2, width, c["patch_bias"])
        self.class_embedding = nn.Parameter(torch.zeros(width))
        distilled = c["distillation_token"]
        self.distillation_embedding = nn.Parameter(torch.zeros(width)) if distilled else None
        positions = (c["image_size"] // self.patch) ** 2 + 1 + distilled
        self.position_embedding = nn.Parameter(torch.zeros(positions, width))
        self.pre_norm = nn.LayerNorm(width, eps=c["layer_norm_eps"]) if c["pre_norm"] else None
        self.dropout = nn.Dropout(c["dropout"])
        self.layers = nn.ModuleList(PreNormBlock(c) for _ in range(c["layers"]))
        self.post_norm = nn.LayerNorm(width, eps=c["layer_norm_eps"])
        # For hidden patches, which only masked image modelling reads.
        self.mask_embedding = nn.Parameter(torch.zeros(width)) if c.get("mask_embedding") else None

    def forward(self, pixels):
        rows = pixels.shape[0]
        # [B, 3, G, P, G, P] -> [B, G G, 3 P P]: the order of a convolution's kernel.
        patches = pixels.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        tokens = [t for t in (self.class_embedding, self.distillation_embedding) if t is not None]
        tokens = [t.expand(rows, 1, -1) for t in tokens]
        x = torch.cat([*tokens, self.patch_embedding(patches)], 1) + self.position_embedding
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        states = [self.dropout(x)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return [self.post_norm(state) for state in states]


# Two streams: METER, BridgeTower, ManagerTower, UNIMO-3


class LevelAttention(nn.Module):
    """UNIMO-3's gated cross-layer attention: one stream reads several levels of the other.

    M_j = LN_j(V_j)   e_j = (Wq a) (Wk M_j[0]) / sqrt(D) + b_j   g = softmax(e)
    """

    def __init__(self, c, levels):
        super().__init__()
        width, self.gate = c["width"], c["gate"]
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=c["layer_norm_eps"]) for _ in range(levels))
        adaptive = self.gate != "static"
        self.gate_query = Linear(width, width, bias=False) if adaptive else None
        self.gate_key = Linear(width, width, bias=False) if adaptive else None
        self.gate_bias = nn.Parameter(torch.zeros(levels))
        self.attention = Attention(width, c["heads"], c["dropout"])

    def gates(self, query, memory):
        """Shares of the levels, `[B, 1, S]`, or with a gate per token `[B, Q, S]`."""
        bias = self.gate_bias.float()
        if self.gate_query is None:
            return bias.softmax(-1).expand(query.shape[0], 1, -1).to(query.dtype)
        asking = self.gate_query(query if self.gate == "token" else query[:, :1])
        keys = self.gate_key(torch.stack([first(level) for level in memory], 1))
        scores = asking.float() @ keys.float().mT / query.shape[-1] ** 0.5 + bias
        return scores.softmax(-1).to(query.dtype)

    def forward(self, query, levels, seen):
        memory = [norm(level) for norm, level in zip(self.norms, levels)]
        gates = self.gates(query, memory)
        shares = gates.unsqueeze(-1).unbind(2)
        if self.gate == "token":
            read = sum(self.attention.attend(query, m, seen) * g for m, g in zip(memory, shares))
        else:
            read = self.attention.attend(query, sum(m * g for m, g in zip(memory, shares)), seen)
        return self.attention.output(read), gates


class Manager(nn.Module):
    """ManagerTower: mixes the uni-modal layers of one modality for one cross-modal layer."""

    def __init__(self, c, adaptive):
        super().__init__()
        width, levels, eps = c["width"], c["uni_levels"], c["layer_norm_eps"]
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=eps) for _ in range(levels))
        self.temperature = nn.Parameter(torch.ones(1))
        self.weights = None if adaptive else nn.Parameter(torch.full((levels, width), 1 / levels))
        self.adaptive = Adaptive(c) if adaptive else None
        # Noise on the scores in training, as in the paper.
        self.noise = 1 / levels if c["dropout"] > 0 else 0.0

    def forward(self, levels, own, other, seen):
        normed = [norm(level) for norm, level in zip(self.norms, levels)]
        temperature = self.temperature.float()
        if self.adaptive is None:
            shares = (self.weights.float() / temperature).softmax(0).to(own.dtype)
            return sum(level * share for level, share in zip(normed, shares))
        own, scores = self.adaptive(own, other, seen)
        if self.training and self.noise > 0:
            scores = scores + torch.randn_like(scores) * self.noise
        shares = (scores.float() / temperature).softmax(-1).to(own.dtype)
        mixed = sum(level * share for level, share in zip(normed, shares.unsqueeze(-1).unbind(2)))
        return mixed + own * self.adaptive.cross_weight


class Adaptive(nn.Module):
    """The shares of a manager that depend on the states."""

    def __init__(self, c):
        super().__init__()
        width, eps = c["width"], c["layer_norm_eps"]
        self.own_norm = nn.LayerNorm(width, eps=eps)
        self.other_norm = nn.LayerNorm(width, eps=eps)
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.score = Linear(2 * width, c["uni_levels"])
        self.cross_weight = nn.Parameter(torch.ones(width))

    def forward(self, own, other, seen):
        own, other = self.own_norm(own), self.other_norm(other)
        seen = None if seen is None else seen[:, None]
        read = F.scaled_dot_product_attention(self.query(own), self.key(other), other, attn_mask=seen)
        return own, self.score(torch.cat([read, own], -1))


class CrossModalLayer(nn.Module):
    """One stream's half of a layer.

    A = LN(T + SelfAttn(T))   T' = LN(A + CrossAttn(A, V) + tanh(lambda) LevelAttn(A, {V_j}))   T = LN(T' + FFN(T'))
    """

    def __init__(self, c, levels):
        super().__init__()
        width, heads, dropout = c["width"], c["heads"], c["dropout"]
        norm = lambda: nn.LayerNorm(width, eps=c["layer_norm_eps"])
        self.self_attention = Attention(width, heads, dropout)
        self.self_norm = norm()
        self.cross_attention = Attention(width, heads, dropout) if c["in_layer"] else None
        self.level_attention = LevelAttention(c, levels) if levels else None
        self.merge = nn.Parameter(torch.zeros(1)) if levels and c["in_layer"] else None
        self.cross_norm = norm()
        self.feed_forward = FeedForward(c, width)
        self.feed_forward_norm = norm()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, seen, other, other_seen, levels):
        a = self.self_norm(x + self.dropout(self.self_attention(x, x, seen)))
        crossed, gates = a, None
        if self.cross_attention is not None:
            crossed = crossed + self.dropout(self.cross_attention(a, other, other_seen))
        if self.level_attention is not None:
            read, gates = self.level_attention(a, levels, other_seen)
            read = self.dropout(read)
            crossed = crossed + (read if self.merge is None else torch.tanh(self.merge) * read)
        x = self.cross_norm(crossed)
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x))), gates


def levels_of_layer(c, layer):
    """How many states of the other stream a layer (from 0) reads across layers."""
    return {
        "none": 0,
        "cross_prev": layer + 1,
        "uni_top_n": c["uni_levels"],
        "both": c["uni_levels"] + layer,
    }[c["levels"]]


class Stream(nn.Module):
    """The layers of one modality."""

    def __init__(self, c):
        super().__init__()
        width, link, layers = c["width"], c["link"], c["layers"]
        later = lambda kind, value: [nn.Parameter(torch.full((1,), value)) for _ in range(layers - 1)] if link == kind else []
        bridges = layers if link in ("add_norm", "scaled_add_norm", "interpolate_norm") else 0
        managed = link == "managers"
        self.layers = nn.ModuleList(CrossModalLayer(c, levels_of_layer(c, layer)) for layer in range(layers))
        self.links = nn.ModuleList(nn.LayerNorm(width, eps=c["layer_norm_eps"]) for _ in range(bridges))
        # The first layer has no previous output to weigh.
        self.link_scales = nn.ParameterList(later("scaled_add_norm", 1.0))
        self.link_shares = nn.ParameterList(later("interpolate_norm", 0.5))
        self.managers = nn.ModuleList(Manager(c, layer > 0) for layer in range(layers if managed else 0))
        self.level_embedding = nn.Embedding(c["uni_levels"], width) if managed else None
        self.pooler = Linear(width, width)

    def enter(self, layer, uni_modal, own, other, other_seen):
        """The state that enters a layer."""
        if len(self.managers) > 0:
            levels = [level + depth for level, depth in zip(uni_modal, self.level_embedding.weight)]
            return self.managers[layer](levels, own, other, other_seen)
        if len(self.links) == 0:
            return own
        bridge = uni_modal[layer]
        if layer == 0:
            return self.links[layer](bridge)
        if len(self.link_scales) > 0:
            bridge = bridge * self.link_scales[layer - 1]
        if len(self.link_shares) > 0:
            return self.links[layer](bridge + (own - bridge) * self.link_shares[layer - 1])
        return self.links[layer](bridge + own)

    def pool(self, states):
        return torch.tanh(self.pooler(first(states)))


class CrossModalEncoder(nn.Module):
    def __init__(self, c, text_width, image_width):
        super().__init__()
        self.c, width = c, c["width"]
        # How many of the last uni-modal states it reads.
        self.uni_modal = max(c["uni_levels"], 1)
        further = 0 if c.get("shared_transforms", True) else self.uni_modal - 1
        self.text_transform = Linear(text_width, width)
        self.image_transform = Linear(image_width, width)
        self.further_text_transforms = nn.ModuleList(Linear(text_width, width) for _ in range(further))
        self.further_image_transforms = nn.ModuleList(Linear(image_width, width) for _ in range(further))
        # Row 0 is text, row 1 the image, further rows are further images of a sample.
        self.type_embedding = nn.Embedding(1 + c.get("pictures", 1), width)
        self.text = Stream(c)
        self.image = Stream(c)

    def project(self, states, transform, further, kind):
        transforms = [transform, *further] if len(further) > 0 else [transform] * len(states)
        return [t(state) + self.type_embedding.weight[kind] for t, state in zip(transforms, states)]

    def project_texts(self, states):
        return self.project(states, self.text_transform, self.further_text_transforms, 0)

    def project_images(self, states, picture):
        return self.project(states, self.image_transform, self.further_image_transforms, 1 + picture)

    def memory(self, uni_modal, cross_modal):
        """The levels that a layer reads."""
        return {
            "none": [],
            "cross_prev": cross_modal,
            "uni_top_n": uni_modal,
            "both": uni_modal[:-1] + cross_modal,
        }[self.c["levels"]]

    def forward(self, text, seen, image):
        texts, images, gates = [text[-1]], [image[-1]], []
        for layer in range(self.c["layers"]):
            t, v = texts[-1], images[-1]
            x = self.text.enter(layer, text, t, v, None)
            y = self.image.enter(layer, image, v, t, seen)
            of_text, of_image = self.memory(text, texts), self.memory(image, images)
            t, text_gates = self.text.layers[layer](x, seen, y, None, of_image)
            v, image_gates = self.image.layers[layer](y, None, x, seen, of_text)
            texts.append(t)
            images.append(v)
            if text_gates is not None:
                gates.append((text_gates, image_gates))
        return texts[-1], images[-1], gates


# One stream: UNIMO-2, MVP


class Quantiser(nn.Module):
    """UNIMO-2's grounded dictionary. Gives the codes of each row, `[B, K]`, and which of them there are."""

    def __init__(self, c, width):
        super().__init__()
        self.tokens, self.choice = c["tokens"], c["choice"]
        self.codebook = nn.Parameter(nn.init.normal_(torch.empty(c["codes"], width), std=0.02))
        self.tau = nn.Parameter(torch.full((1,), float(c["scale"])))

    def forward(self, states, seen):
        states, book = states.float(), self.codebook.float()
        products = states @ book.T
        if self.choice == "top_k":
            # The codes that all states together are most similar to.
            similarity = torch.sigmoid(products * self.tau.float()) * seen[..., None]
            codes = similarity.sum(1).topk(self.tokens, 1).indices
            return codes, torch.ones_like(codes, dtype=torch.bool)
        # The codes that are nearest to some state: the most chosen first, of equals the smaller number.
        count = book.shape[0]
        nearest = (2 * products - book.square().sum(1)).argmax(2)
        hits = (F.one_hot(nearest, count) * seen[..., None]).sum(1)
        codes = (hits * count - torch.arange(count, device=hits.device)).topk(self.tokens, 1).indices
        used = hits.gather(1, codes) > 0
        return codes.masked_fill(~used, 0), used


class JointEncoder(nn.Module):
    """One stream of self-attention. With a grounded dictionary, text and image see each other only through its codes."""

    def __init__(self, c, class_tokens):
        super().__init__()
        self.image_class, self.class_tokens = c["image_class"], class_tokens
        grounding = c.get("grounding")
        self.quantiser = Quantiser(grounding, c["width"]) if grounding else None
        self.norm = nn.LayerNorm(c["width"], eps=c["layer_norm_eps"]) if grounding else None
        self.dropout = nn.Dropout(c["dropout"])
        self.layers = nn.ModuleList(PostNormBlock(c) for _ in range(c["layers"]))

    def forward(self, text, seen, image):
        """`text` or `image` may be None. Gives the states of both and the codes."""
        parts, masks, kinds = [], [], []

        def add(part, mask, kind):
            parts.append(part)
            masks.append(mask)
            kinds.extend([kind] * part.shape[1])

        all_seen = lambda x: x.new_ones(x.shape[:2], dtype=torch.bool)
        if image is not None:
            if not self.image_class:
                image = image[:, self.class_tokens :]
            add(image, all_seen(image), 0)
        codes = None
        if self.quantiser is not None:
            # Class tokens choose no codes.
            sources, shown = [], []
            if image is not None:
                patches = image[:, self.class_tokens :] if self.image_class else image
                sources.append(patches)
                shown.append(all_seen(patches))
            if text is not None:
                sources.append(text[:, 1:])
                shown.append(seen[:, 1:])
            codes, used = self.quantiser(torch.cat(sources, 1), torch.cat(shown, 1))
            tokens = self.norm(self.quantiser.codebook[codes])
            add(self.dropout(tokens.to(sources[0].dtype)), used, 1)
        if text is not None:
            add(text, seen, 2)
        x, visible = torch.cat(parts, 1), torch.cat(masks, 1)
        if self.quantiser is not None:
            kinds = torch.tensor(kinds, device=x.device)
            visible = visible[:, None] & ((kinds[:, None] - kinds).abs() < 2)
        for layer in self.layers:
            x = layer(x, visible)
        of_image = 0 if image is None else image.shape[1]
        of_text = 0 if text is None else text.shape[1]
        return (
            None if text is None else x[:, x.shape[1] - of_text :],
            None if image is None else x[:, :of_image],
            codes,
        )


# All encoders


class Backbone(nn.Module):
    def __init__(self, model):
        super().__init__()
        image, fusion, joint = model.get("image"), model.get("fusion"), model.get("joint")
        self.text = TextEncoder(model["text"])
        self.image = ImageEncoder(image) if image else None
        self.fusion = CrossModalEncoder(fusion, model["text"]["width"], image["width"]) if fusion else None
        class_tokens = 1 + image["distillation_token"] if image else 1
        self.joint = JointEncoder(joint, class_tokens) if joint else None

    def encode_texts(self, ids, seen, types):
        """What the cross-modal encoder reads, and the first state before it."""
        states = self.text(ids, seen, types)
        kept = states[-self.fusion.uni_modal :] if self.fusion else states[-1:]
        return (self.fusion.project_texts(kept) if self.fusion else kept), first(states[-1])

    def encode_images(self, pixels, picture=0):
        """As `encode_texts`; `picture` counts the images of a sample from 0."""
        states = self.image(pixels)
        kept = states[-self.fusion.uni_modal :] if self.fusion else states[-1:]
        return (self.fusion.project_images(kept, picture) if self.fusion else kept), first(states[-1])

    def forward(self, text, seen, image):
        """Fuses row i of the texts with row i of the images. Gives both states, the gates and the codes."""
        last = lambda states: None if states is None else states[-1]
        if self.joint is not None:
            text, image, codes = self.joint(last(text), seen, last(image))
            return text, image, [], codes
        if self.fusion is not None and text is not None and image is not None:
            return *self.fusion(text, seen, image), None
        # Two towers, or one modality alone: there is nothing to fuse.
        fused = self.fusion is None
        return last(text) if fused else None, last(image) if fused else None, [], None


# Heads


class MlmHead(nn.Module):
    """Masked language modelling."""

    def __init__(self, c, width, words, eps):
        super().__init__()
        self.dense = Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.decoder = None if c.get("tied") else Linear(width, words)
        self.bias = nn.Parameter(torch.zeros(words)) if c.get("tied") else None

    def forward(self, states, word_embedding):
        hidden = self.norm(F.gelu(self.dense(states)))
        return hidden @ word_embedding.T + self.bias if self.decoder is None else self.decoder(hidden)


class ItmHead(nn.Module):
    """Image-text matching: logits of "no" and "yes"."""

    def __init__(self, c, width, dropout):
        super().__init__()
        self.kind = c.get("head", "pair")
        self.text = None if self.kind in ("pair", "class") else Linear(width, width)
        self.image = Linear(width, width) if self.kind == "product" else None
        self.classifier = Linear(2 * width if self.kind == "pair" else width, 2)
        self.dropout = nn.Dropout(dropout if self.kind == "product" else 0.0)

    def forward(self, backbone, text, image):
        if self.kind == "pair":
            seen = pool_pair(backbone, text, image)
        elif self.kind == "product":
            seen = self.dropout(F.relu(self.text(first(text))) * F.relu(self.image(first(image))))
        elif self.kind == "class":
            seen = first(text)
        else:
            seen = torch.tanh(self.text(first(text)))
        return self.classifier(seen)


def pool_pair(backbone, text, image):
    fusion = backbone.fusion
    return torch.cat([fusion.text.pool(text), fusion.image.pool(image)], -1)


class ItcHead(nn.Module):
    """Image-text contrast: the common space of texts and images."""

    def __init__(self, c, text_width, image_width, cross_width):
        super().__init__()
        self.three = c["views"] == "three"
        self.texts_normalised = c.get("normalised", "both") == "both"
        kind = c.get("projection", "linear")
        project = lambda width: None if kind == "none" else Linear(width, c["width"], kind == "linear")
        self.text_projection = project(text_width)
        self.image_projection = project(cross_width if self.three else image_width)
        self.cross_projection = Linear(2 * cross_width, c["width"]) if self.three else None
        self.logit_scale = nn.Parameter(torch.zeros(1))

    def embed(self, projection, state, normalised=True):
        state = (state if projection is None else projection(state)).float()
        return F.normalize(state, dim=-1) if normalised else state

    def texts(self, state):
        return self.embed(self.text_projection, state, self.texts_normalised)

    def images(self, states, state):
        return self.embed(self.image_projection, first(states[-1]) if self.three else state)

    def pairs(self, backbone, text, image):
        return self.embed(self.cross_projection, pool_pair(backbone, text, image))


class Summary(nn.Module):
    """One vector of a pair, for a task."""

    def __init__(self, pooling, width):
        super().__init__()
        both = pooling in ("product", "sum")
        self.pooling = pooling
        self.text = Linear(width, width) if both or pooling == "text" else None
        self.image = Linear(width, width) if both else None

    def forward(self, backbone, text, image):
        if self.pooling == "pair":
            return pool_pair(backbone, text, image)
        if self.pooling == "class":
            return first(text)
        if self.pooling == "text":
            return torch.tanh(self.text(first(text)))
        t, v = F.relu(self.text(first(text))), F.relu(self.image(first(image)))
        return t * v if self.pooling == "product" else t + v


class TaskHead(nn.Module):
    def __init__(self, c, d_in, width, classes):
        super().__init__()
        hidden = c.get("hidden") or 2 * width
        self.dropout = nn.Dropout(c.get("dropout", 0.0))
        self.inner = Linear(d_in, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-5)
        self.outer = Linear(hidden, classes)

    def forward(self, x):
        return self.outer(F.gelu(self.norm(self.inner(self.dropout(x)))))


class PairClassifier(nn.Module):
    def __init__(self, c, width, classes):
        super().__init__()
        self.summary = Summary(c["pooling"], width)
        d_in = 2 * width if c["pooling"] == "pair" else width
        self.head = TaskHead(c.get("head", {}), d_in, width, classes)

    def forward(self, backbone, text, image):
        return self.head(self.summary(backbone, text, image))


class Classified(nn.Module):
    """The head of a task under the name that unimo gives it."""

    def __init__(self, c, width, classes):
        super().__init__()
        self.classifier = PairClassifier(c, width, classes)

    def forward(self, backbone, text, image):
        return self.classifier(backbone, text, image)


# The model


@dataclass
class UnimoOutput(ModelOutput):
    """What a pass gives; None for what the model has no head for, or was not given.

    text_state `[B, Lt, D]` and image_state `[B, Lv, D]` are the states after the cross-modal encoder. text_embeds and image_embeds
    `[B, E]` lie in the common space, cross_embeds `[B, E]` are the pairs there, and logits_per_text `[B, B]` are all similarities,
    scaled. itm_logits `[B, 2]` are "no" and "yes", mlm_logits `[B, Lt, vocabulary]`. vqa_logits and snli_ve_logits are
    `[B, classes]`, in the order of labels.json. gates has for each layer those of text and image, `[B, 1 or L, S]`; codes `[B, K]` are
    the entries of the grounded dictionary.
    """

    text_state: Optional[torch.FloatTensor] = None
    image_state: Optional[torch.FloatTensor] = None
    text_embeds: Optional[torch.FloatTensor] = None
    image_embeds: Optional[torch.FloatTensor] = None
    cross_embeds: Optional[torch.FloatTensor] = None
    logits_per_text: Optional[torch.FloatTensor] = None
    itm_logits: Optional[torch.FloatTensor] = None
    mlm_logits: Optional[torch.FloatTensor] = None
    vqa_logits: Optional[torch.FloatTensor] = None
    snli_ve_logits: Optional[torch.FloatTensor] = None
    gates: Optional[tuple] = None
    codes: Optional[torch.LongTensor] = None


class UnimoModel(PreTrainedModel):
    config_class = UnimoConfig
    main_input_name = "input_ids"
    # Heads that only training or unimo itself uses.
    _keys_to_ignore_on_load_unexpected = [
        r"^objectives\.(lm|vq|codes|mcr|wpg|views|mrm|mim|psl|locate|mrtm|regions|nlvr2|ranking|answers|classes|prompts|sentences|grounding|region_scoring|walk|path|hallucinate|ttc|ttm|tlm|xlco|alignment)\.",
        r"^objectives\.itc\.momentum\.",
        r"^objectives\.mlm\.distil\.",
        r"^backbone\.image\.mask_embedding$",
        r"^backbone\.joint\.slice_embedding$",
    ]

    def __init__(self, config):
        super().__init__(config)
        model, given = config.model, config.objectives
        text, image = model["text"], model.get("image") or {"width": 0}
        cross = model.get("fusion") or model.get("joint") or text
        width = cross["width"]
        self.backbone = Backbone(model)
        heads = {}
        if "mlm" in given:
            heads["mlm"] = MlmHead(given["mlm"], width, text["vocab_size"], cross["layer_norm_eps"])
        if "itm" in given:
            heads["itm"] = ItmHead(given["itm"], width, (model.get("joint") or {}).get("dropout", 0.0))
        if "itc" in given:
            heads["itc"] = ItcHead(given["itc"], text["width"], image["width"], width)
        if "vqa" in given:
            heads["vqa"] = Classified(given["vqa"], width, given["vqa"].get("classes") or 1)
        if "snli_ve" in given:
            heads["snli_ve"] = Classified(given["snli_ve"], width, 3)
        self.objectives = nn.ModuleDict(heads)
        self.post_init()

    def get_text_features(self, input_ids, attention_mask=None, token_type_ids=None):
        """Texts in the common space, `[B, E]`."""
        return self(input_ids, attention_mask, token_type_ids=token_type_ids).text_embeds

    def get_image_features(self, pixel_values):
        """Images in the common space, `[B, E]`."""
        return self(pixel_values=pixel_values).image_embeds

    def forward(self, input_ids=None, attention_mask=None, pixel_values=None, token_type_ids=None, **kwargs):
        """Row i of the texts is read with row i of the images; either may be left out."""
        if input_ids is None and pixel_values is None:
            raise ValueError("give input_ids, pixel_values or both")
        heads, backbone, out = self.objectives, self.backbone, {}
        texts = images = seen = None
        if input_ids is not None:
            seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            seen = seen.bool()
            texts, text_class = backbone.encode_texts(input_ids, seen, token_type_ids)
            if "itc" in heads:
                out["text_embeds"] = heads["itc"].texts(text_class)
        if pixel_values is not None:
            images, image_class = backbone.encode_images(pixel_values)
            if "itc" in heads:
                out["image_embeds"] = heads["itc"].images(images, image_class)
        text, image, gates, codes = backbone(texts, seen, images)
        if "text_embeds" in out and "image_embeds" in out:
            scale = heads["itc"].logit_scale.float().exp()
            out["logits_per_text"] = out["text_embeds"] @ out["image_embeds"].T * scale
        if text is not None and "mlm" in heads:
            out["mlm_logits"] = heads["mlm"](text, backbone.text.word_embedding.weight)
        if text is not None and image is not None:
            if "itm" in heads:
                out["itm_logits"] = heads["itm"](backbone, text, image)
            if "itc" in heads and heads["itc"].three:
                out["cross_embeds"] = heads["itc"].pairs(backbone, text, image)
            for task in ("vqa", "snli_ve"):
                if task in heads:
                    out[f"{task}_logits"] = heads[task](backbone, text, image)
        return UnimoOutput(text_state=text, image_state=image, gates=tuple(gates) or None, codes=codes, **out)
