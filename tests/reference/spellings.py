"""Writes tests/fixtures/spellings: the weights of tests/fixtures/hf and tests/fixtures/twin as other programs spell them.

Usage: python spellings.py FIXTURES_DIR      (pip install torch safetensors; written with torch 2.15)

    bert-old.bin        as transformers 2 did: torch.save's old format, `bert.` before every name, gamma and beta, heads
    clip-openai.pt      OpenAI's names, torch.save's zip format
    clip-openclip.bin   OpenCLIP's names with a text tower of its own, f16, every name behind `module.`
    meter.ckpt          METER's names within a Lightning checkpoint
    bert-nested.bin     {"model": {"state_dict": ...}} of a compiled, data-parallel model, beside an optimiser and an average
    bert-shards/        pytorch_model.bin in two shards with their index
    clip-jit.pt         OpenAI's names as TorchScript, f16, one matrix stored transposed
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file

FIXTURES = pathlib.Path(sys.argv[1])
OUT = FIXTURES / "spellings"
OUT.mkdir(parents=True, exist_ok=True)


def renamed(state, *pairs):
    out = {}
    for key, value in state.items():
        for old, new in pairs:
            key = key.replace(old, new)
        out[key] = value
    return out


def packed(state):
    """query, key and value of every `self_attn` as PyTorch's in_proj."""
    for base in {k.split(".self_attn.")[0] for k in state if ".self_attn." in k}:
        state[f"{base}.attn.out_proj.weight"] = state.pop(f"{base}.self_attn.out_proj.weight")
        state[f"{base}.attn.out_proj.bias"] = state.pop(f"{base}.self_attn.out_proj.bias")
        for kind in ("weight", "bias"):
            parts = [state.pop(f"{base}.self_attn.{n}_proj.{kind}") for n in "qkv"]
            state[f"{base}.attn.in_proj_{kind}"] = torch.cat(parts)
    return state


BLOCKS = (
    ("encoder.layers.", "transformer.resblocks."),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)
IMAGE = (
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("embeddings.patch_embedding.weight", "conv1.weight"),
    ("pre_layrnorm", "ln_pre"),
    ("post_layernorm", "ln_post"),
)

bert = load_file(FIXTURES / "hf/bert/model.safetensors")
old = renamed(bert, ("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
old = {f"bert.{k}": v for k, v in old.items()}
old["bert.embeddings.position_ids"] = torch.arange(20)[None]
old["cls.predictions.bias"] = torch.zeros(43)
old["cls.predictions.transform.LayerNorm.gamma"] = torch.ones(16)
torch.save(old, OUT / "bert-old.bin", _use_new_zipfile_serialization=False)


def openai(text):
    clip = load_file(FIXTURES / "hf/clip/model.safetensors")
    image = {k.removeprefix("vision_model."): v for k, v in clip.items() if k.startswith("vision_model.")}
    words = {k.removeprefix("text_model."): v for k, v in clip.items() if k.startswith("text_model.")}
    words = packed(renamed(words, *BLOCKS, ("embeddings.token_embedding", "token_embedding"),
                           ("embeddings.position_embedding.weight", "positional_embedding"),
                           ("final_layer_norm", "ln_final")))
    words["text_projection"] = clip["text_projection.weight"].T
    state = {f"{text}{k}": v for k, v in words.items()}
    state |= {f"visual.{k}": v for k, v in packed(renamed(image, *IMAGE, *BLOCKS)).items()}
    state["visual.proj"] = clip["visual_projection.weight"].T
    state["logit_scale"] = clip["logit_scale"]
    return state


torch.save(openai(""), OUT / "clip-openai.pt")
torch.save({f"module.{k}": v.half() for k, v in openai("text.").items()}, OUT / "clip-openclip.bin")

twin = load_file(FIXTURES / "twin/meter/model.safetensors")
meter = {k: v for k, v in twin.items() if not k.startswith("image_transformer.")}
meter = renamed(meter, ("mlm_score.decoder.bias", "mlm_score.bias"))
image = {k.removeprefix("image_transformer.").removeprefix("vision_model."): v for k, v in twin.items()
         if k.startswith("image_transformer.")}
meter |= {f"vit_model.visual.{k}": v for k, v in packed(renamed(image, *IMAGE, *BLOCKS)).items()}
meter = {k: v for k, v in meter.items() if not k.endswith("position_ids")}
# What METER stores and never uses, the heads of its tasks, and what Lightning keeps beside the weights.
meter |= {"vit_model.positional_embedding": torch.randn(7, 16), "vit_model.ln_final.weight": torch.ones(16),
          "vit_model.ln_final.bias": torch.zeros(16), "text_transformer.pooler.dense.weight": torch.randn(16, 16),
          "text_transformer.pooler.dense.bias": torch.zeros(16), "rank_output.weight": torch.randn(1, 32),
          "rank_output.bias": torch.zeros(1)}
for task, pairs, classes in (("vqa", 1, 5), ("nlvr2", 2, 2), ("snli", 1, 3)):
    head = torch.nn.Sequential(torch.nn.Linear(32 * pairs, 32), torch.nn.LayerNorm(32), torch.nn.GELU(),
                               torch.nn.Linear(32, classes))
    meter |= {f"{task}_classifier.{k}": v.detach() for k, v in head.state_dict().items()}
torch.save({"epoch": 3, "global_step": 12, "pytorch-lightning_version": "1.3.2", "state_dict": meter,
            "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}}], "lr_schedulers": [],
            "hyper_parameters": {"config": {"num_heads": 4, "image_size": 48}}}, OUT / "meter.ckpt")
wrapped = {f"_orig_mod.module.bert.{k}": v for k, v in bert.items()}
torch.save({"epoch": 3, "model": {"state_dict": wrapped}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
            "ema": {k: bert[k] + 1 for k in list(bert)[:3]}}, OUT / "bert-nested.bin")

shards = OUT / "bert-shards"
shards.mkdir(exist_ok=True)
names = sorted(bert)
halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
for file, part in halves.items():
    torch.save({k: bert[k].clone() for k in part}, shards / file)
index = {"metadata": {}, "weight_map": {k: file for file, part in halves.items() for k in part}}
(shards / "pytorch_model.bin.index.json").write_text(json.dumps(index))


class Node(torch.nn.Module):
    """A layer whose parts are named by a state dict."""

    def __init__(self, state):
        super().__init__()
        below = {}
        for key, value in state.items():
            first, _, rest = key.partition(".")
            if rest:
                below.setdefault(first, {})[rest] = value
            elif key == "proj":
                # Of the same numbers in another order.
                self.register_parameter(key, torch.nn.Parameter(value.half().T.contiguous().T))
            else:
                self.register_parameter(key, torch.nn.Parameter(value.half()))
        for name, part in below.items():
            self.add_module(name, Node(part))


torch.jit.save(torch.jit.script(Node(openai(""))), OUT / "clip-jit.pt")

print(*(f"{p.name} {p.stat().st_size}" for p in sorted(OUT.iterdir())), sep="\n")
