"""Writes tests/fixtures/blip: a tiny BLIP that writes captions, and what transformers makes of it.

Usage: python blip.py OUT_DIR      (pip install torch transformers safetensors; written with torch 2.15, transformers 5.24)

    caption.safetensors   BlipForConditionalGeneration with random weights, under unimo's names (linear weights [in, out]); `levels` of the
                          images (0 to 255), `ids`, `lengths`, `logits` at all words, `loss` with smoothed labels, and `grad.NAME`
    cases.json            for each case the arguments of `generate`, the `prompt`, the new `tokens` of each image without end and padding,
                          whether the end token closed them (`ended`), and `score`, which is `sequences_scores`, for beam search

All layers of BLIP's decoder read the same image, where a stream of unimo's reads the state of the other one. So the image stream is made
to change nothing: its attention and its feed-forward layer give 0, and its norms find what the image encoder's last norm left, whose
weight is 1 and bias 0, as BLIP begins. A norm of what is normed passes on the part of a gradient that the first one lets through, so the
gradients of everything below that last norm are BLIP's too; its own are not, and are not written.
"""
import itertools
import json
import pathlib
import sys

import torch
import transformers as tf
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1])
PAD, BEGIN, END = 0, 1, 2
WIDTH, LAYERS = 16, 2
PROMPTS = [[BEGIN], [BEGIN, 9], [BEGIN, 5, 6, 5, 6]]

text = dict(
    vocab_size=24, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=24, max_position_embeddings=20,
    hidden_act="gelu", layer_norm_eps=1e-12, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, encoder_hidden_size=WIDTH,
    bos_token_id=BEGIN, eos_token_id=END, sep_token_id=END, pad_token_id=PAD, label_smoothing=0.1,
)
vision = dict(
    hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, image_size=8, patch_size=4, hidden_act="gelu",
    layer_norm_eps=1e-12, attention_dropout=0.0,
)
model = tf.BlipForConditionalGeneration(tf.BlipConfig(text_config=text, vision_config=vision)).eval()
assert model.text_decoder.cls.predictions.decoder.weight is model.text_decoder.bert.embeddings.word_embeddings.weight
generator = torch.Generator().manual_seed(5)
with torch.no_grad():
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if "post_layernorm" in name:
            p.copy_(torch.full_like(p, float("weight" in name)))
        elif p.ndim >= 2:
            p.copy_(noise * 0.9 / p[0].numel() ** 0.5)
        else:
            p.add_(noise * 0.3)
    # An end that is likely enough for captions of different lengths.
    model.text_decoder.cls.predictions.bias[END] += 0.5

levels = torch.randint(0, 256, (3, 3, 8, 8), generator=generator)
pixels = (levels.float() / 255 - 0.5) / 0.5
lengths = [7, 4, 9]
ids = torch.full((3, max(lengths)), PAD)
for row, length in enumerate(lengths):
    ids[row, :length] = torch.randint(3, 24, (length,), generator=generator)
    ids[row, 0], ids[row, length - 1] = BEGIN, END
mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
o = model(pixel_values=pixels, input_ids=ids, attention_mask=mask.long(), labels=ids.masked_fill(~mask, -100))
o.loss.backward()

tensors = {}


def put(name, parameter, change=lambda t: t):
    """A parameter and its gradient, under unimo's name."""
    tensors[name] = change(parameter.detach())
    if "post_layernorm" not in name and parameter.grad is not None:
        tensors[f"grad.{name}"] = change(parameter.grad)


def linear(name, layer):
    put(f"{name}.weight", layer.weight, torch.t)
    if layer.bias is not None:
        put(f"{name}.bias", layer.bias)


def norm(name, layer):
    put(f"{name}.weight", layer.weight)
    put(f"{name}.bias", layer.bias)


def constant(name, d_in, d_out, eye=False):
    """A linear layer that gives 0, or what it is given; it has no gradient in BLIP."""
    tensors[f"{name}.weight"] = torch.eye(d_in) if eye else torch.zeros(d_in, d_out)
    tensors[f"{name}.bias"] = torch.zeros(d_out)


def no_attention(name):
    for part in ["query", "key", "value", "output"]:
        constant(f"{name}.{part}", WIDTH, WIDTH)


image = model.vision_model
put("backbone.image.patch_embedding.weight", image.embeddings.patch_embedding.weight, lambda w: w.flatten(1).t())
put("backbone.image.patch_embedding.bias", image.embeddings.patch_embedding.bias)
put("backbone.image.class_embedding", image.embeddings.class_embedding, torch.flatten)
put("backbone.image.position_embedding", image.embeddings.position_embedding, lambda p: p[0])
for n, layer in enumerate(image.encoder.layers):
    to = f"backbone.image.layers.{n}"
    norm(f"{to}.attention_norm", layer.layer_norm1)
    qkv = layer.self_attn.qkv
    for i, part in enumerate(["query", "key", "value"]):
        put(f"{to}.attention.{part}.weight", qkv.weight, lambda w, i=i: w.chunk(3)[i].t())
        put(f"{to}.attention.{part}.bias", qkv.bias, lambda b, i=i: b.chunk(3)[i])
    linear(f"{to}.attention.output", layer.self_attn.projection)
    norm(f"{to}.feed_forward_norm", layer.layer_norm2)
    linear(f"{to}.feed_forward.inner", layer.mlp.fc1)
    linear(f"{to}.feed_forward.outer", layer.mlp.fc2)
for part, value in [("weight", 1.0), ("bias", 0.0)]:
    tensors[f"backbone.image.post_norm.{part}"] = torch.full((WIDTH,), value)

bert = model.text_decoder.bert
put("backbone.text.word_embedding.weight", bert.embeddings.word_embeddings.weight)
put("backbone.text.position_embedding.weight", bert.embeddings.position_embeddings.weight)
tensors["backbone.text.type_embedding.weight"] = torch.zeros(1, WIDTH)
norm("backbone.text.embedding_norm", bert.embeddings.LayerNorm)
fusion = "backbone.fusion"
constant(f"{fusion}.text_transform", WIDTH, WIDTH, eye=True)
constant(f"{fusion}.image_transform", WIDTH, WIDTH, eye=True)
tensors[f"{fusion}.type_embedding.weight"] = torch.zeros(2, WIDTH)
for n, layer in enumerate(bert.encoder.layer):
    to = f"{fusion}.text.layers.{n}"
    for ours, theirs in [("self", layer.attention), ("cross", layer.crossattention)]:
        for part in ["query", "key", "value"]:
            linear(f"{to}.{ours}_attention.{part}", getattr(theirs.self, part))
        linear(f"{to}.{ours}_attention.output", theirs.output.dense)
        norm(f"{to}.{ours}_norm", theirs.output.LayerNorm)
    linear(f"{to}.feed_forward.inner", layer.intermediate.dense)
    linear(f"{to}.feed_forward.outer", layer.output.dense)
    norm(f"{to}.feed_forward_norm", layer.output.LayerNorm)
    to = f"{fusion}.image.layers.{n}"
    no_attention(f"{to}.self_attention")
    no_attention(f"{to}.cross_attention")
    constant(f"{to}.feed_forward.inner", WIDTH, 24)
    constant(f"{to}.feed_forward.outer", 24, WIDTH)
    for part, own in itertools.product(["weight", "bias"], ["self", "cross", "feed_forward"]):
        tensors[f"{to}.{own}_norm.{part}"] = torch.full((WIDTH,), float(part == "weight"))
for stream in ["text", "image"]:
    constant(f"{fusion}.{stream}.pooler", WIDTH, WIDTH)
head = model.text_decoder.cls.predictions
linear("head.dense", head.transform.dense)
norm("head.norm", head.transform.LayerNorm)
put("head.bias", head.bias)

tensors |= {"levels": levels.to(torch.uint8), "ids": ids, "lengths": torch.tensor(lengths)}
tensors |= {"logits": o.logits.detach()[mask], "loss": o.loss.detach().reshape(1)}
OUT.mkdir(parents=True, exist_ok=True)
save_file({name: t.contiguous().clone() for name, t in tensors.items()}, OUT / "caption.safetensors")

settings = [dict(num_beams=1), dict(num_beams=1, no_repeat_ngram_size=2), dict(num_beams=1, min_new_tokens=5)]
settings += [dict(num_beams=b, length_penalty=p) for b, p in itertools.product([3, 4], [0.0, 1.0, 2.0])]
settings += [dict(num_beams=3, length_penalty=1.0, no_repeat_ngram_size=2), dict(num_beams=3, length_penalty=1.0, min_new_tokens=6)]
cases = []
for prompt, given in itertools.product(PROMPTS, settings):
    given = dict(given, max_new_tokens=9)
    # BLIP cuts the last token of a prompt, which its processor ends with the end token.
    input_ids = torch.tensor([[*prompt, END]] * len(levels))
    out = model.generate(
        pixel_values=pixels, input_ids=input_ids, attention_mask=torch.ones_like(input_ids), do_sample=False, return_dict_in_generate=True,
        output_scores=True, **given
    )
    case = dict(given, prompt=prompt, tokens=[], ended=[])
    for sequence in out.sequences:
        new = sequence[len(prompt):].tolist()
        ended = END in new
        case["tokens"].append(new[: new.index(END)] if ended else new)
        case["ended"].append(ended)
    if given["num_beams"] > 1:
        case["score"] = out.sequences_scores.tolist()
    cases.append(case)
(OUT / "cases.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
ended = [e for case in cases for e in case["ended"]]
print(len(cases), "cases;", sum(ended), "of", len(ended), "captions ended;", len({str(t) for c in cases for t in c["tokens"]}), "different")
