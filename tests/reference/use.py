"""Compares `unimo score`, `embed` and `fill-mask` with transformers on a BridgeTower folder.

Usage: python use.py UNIMO MODEL_FOLDER LIST.jsonl      (pip install torch transformers safetensors pillow)

UNIMO is the binary, LIST has an image and a caption per line. Prints the largest differences, and for `score` whether both rank
the pairs alike.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers as tf
from PIL import Image
from safetensors import safe_open
from transformers.models.bridgetower.image_processing_pil_bridgetower import BridgeTowerImageProcessorPil

UNIMO, MODEL, LIST = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
rows = [json.loads(line) for line in LIST.open()]
paths = [LIST.parent / row["image"] for row in rows]
tokenizer = tf.AutoTokenizer.from_pretrained(MODEL)
processor = BridgeTowerImageProcessorPil.from_pretrained(MODEL)
# As unimo has it: what the tokenizer's files say, and no more than there are positions, the first two of which RoBERTa does not use.
positions = tf.AutoConfig.from_pretrained(MODEL).text_config.max_position_embeddings - 2
TEXT_LENGTH = min(positions, tokenizer.model_max_length)


def model(make):
    return make.from_pretrained(MODEL).eval()


def unimo(*args):
    return subprocess.run([UNIMO, *map(str, args)], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def texts(captions):
    captions = [" ".join(caption.split()) for caption in captions]
    return tokenizer(captions, padding=True, truncation=True, max_length=TEXT_LENGTH, return_tensors="pt")


out = pathlib.Path(tempfile.mkdtemp())
pixels = processor([Image.open(p).convert("RGB") for p in paths], return_tensors="pt")["pixel_values"]
words = texts([row["caption"] for row in rows])
with torch.no_grad():
    itm = model(tf.BridgeTowerForImageAndTextRetrieval)
    theirs = itm(**words, pixel_values=pixels).logits.softmax(-1)[:, 1]
    unimo("score", MODEL, "--data", LIST, "--out", out / "s.jsonl")
    ours = torch.tensor([json.loads(line)["score"] for line in (out / "s.jsonl").open()])
    ranks = lambda x: x.argsort().argsort().double()
    correlation = torch.corrcoef(torch.stack([ranks(ours), ranks(theirs)]))[0, 1]
    print(f"score: largest difference {(ours - theirs).abs().max():.2e}, rank correlation {correlation:.6f}")

    itc = model(tf.BridgeTowerForContrastiveLearning)
    o = itc(**words, pixel_values=pixels)
    unimo("embed", MODEL, "--images", LIST, "--texts", LIST, "--out", out / "e.safetensors")
    found = safe_open(out / "e.safetensors", "pt")
    notes = found.metadata()
    for what, theirs, keys in (
        ("images", o.image_embeds, [row["image"] for row in rows]),
        ("texts", o.text_embeds, [row["caption"] for row in rows]),
    ):
        ids = json.loads(notes[f"{what}.ids"])
        at = torch.tensor([ids.index(key) for key in keys])
        print(f"embed {what}: largest difference {(found.get_tensor(what)[at] - theirs).abs().max():.2e}")

    mlm = model(tf.BridgeTowerForMaskedLM)
    worst, same = 0.0, 0
    for row, path in list(zip(rows, paths))[:8]:
        parts = row["caption"].split()[:20]
        parts[len(parts) // 2] = "<mask>"
        text = " ".join(parts)
        x = texts([text])
        image = processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"]
        at = (x["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0]
        shares = mlm(**x, pixel_values=image).logits[0, at].softmax(-1)
        ours = json.loads(unimo("fill-mask", MODEL, "--image", path, "--text", text, "--json"))[0]
        worst = max([worst] + [abs(c["score"] - shares[c["id"]].item()) for c in ours])
        same += [c["id"] for c in ours] == shares.topk(len(ours)).indices.tolist()
    print(f"fill-mask: largest difference {worst:.2e}, the same five words in the same order in {same} of 8")
