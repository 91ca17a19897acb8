"""What `unimo embed` is set beside: the same images and texts through transformers' CLIP (ViT-B/16, 224 pixels), in batches of 32.

    python tests/reference/embed_bench.py make FOLDER BPE        # a CLIP of random weights; BPE: bpe_simple_vocab_16e6.txt.gz
    python tests/reference/embed_bench.py run FOLDER LIST.jsonl OUT.npz [--images N] [--texts N] [--threads 2]
        [--image-column image] [--text-column caption]

`run` prints one JSON line: seconds of the loop over images (decode, resize, normalise, encode) and over texts, without the start of Python
and the reading of the weights. `unimo embed FOLDER --images ... --texts ...` does the same; two runs of it with different numbers of
rows give its seconds for a row. Needs torch, transformers, Pillow, numpy.
"""
import argparse
import gzip
import json
import pathlib
import time

import numpy
import torch
import transformers as tf
from PIL import Image

BATCH, SEED, MERGES = 32, 0, 48894
START, END = "<|startoftext|>", "<|endoftext|>"

parser = argparse.ArgumentParser()
commands = parser.add_subparsers(dest="command", required=True)
make = commands.add_parser("make")
make.add_argument("folder", type=pathlib.Path)
make.add_argument("bpe", type=pathlib.Path)
run = commands.add_parser("run")
run.add_argument("folder", type=pathlib.Path)
run.add_argument("list", type=pathlib.Path)
run.add_argument("out", type=pathlib.Path)
run.add_argument("--images", type=int, default=0)
run.add_argument("--texts", type=int, default=0)
run.add_argument("--threads", type=int, default=2)
run.add_argument("--image-column", default="image")
run.add_argument("--text-column", default="caption")
args = parser.parse_args()


def alphabet():
    """CLIP's names of the 256 bytes, in the order of its vocabulary."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) for byte in seen] + [chr(256 + number) for number in range(len(rest))]


def tokenizer():
    lines = gzip.open(args.bpe).read().decode("utf-8").split("\n")
    merges = lines[1 : MERGES + 1]
    letters = alphabet()
    words = letters + [letter + "</w>" for letter in letters] + [merge.replace(" ", "") for merge in merges] + [START, END]
    (args.folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (args.folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return tf.CLIPTokenizer(str(args.folder / "vocab.json"), str(args.folder / "merges.txt"), model_max_length=77)


def loop(rows, encode):
    """Features of all rows, and the seconds that they took."""
    start, found = time.perf_counter(), []
    with torch.inference_mode():
        for at in range(0, len(rows), BATCH):
            found.append(encode(rows[at : at + BATCH]))
    return torch.cat(found).numpy(), time.perf_counter() - start


def pooled(features):
    return features if isinstance(features, torch.Tensor) else features.pooler_output


if args.command == "make":
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    config = tf.CLIPConfig(vision_config={"patch_size": 16, "image_size": 224, "hidden_size": 768, "num_hidden_layers": 12,
                                          "num_attention_heads": 12, "intermediate_size": 3072})
    tf.CLIPModel(config).save_pretrained(args.folder)
    tokenizer().save_pretrained(args.folder)
    tf.CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=224).save_pretrained(args.folder)
else:
    torch.set_num_threads(args.threads)
    model = tf.CLIPModel.from_pretrained(args.folder).eval()
    processor = tf.CLIPImageProcessor.from_pretrained(args.folder)
    tokens = tf.AutoTokenizer.from_pretrained(args.folder)
    rows = [json.loads(line) for line in args.list.open(encoding="utf-8")]
    images = [args.list.parent / row[args.image_column] for row in rows][: args.images]
    texts = [row[args.text_column] for row in rows][: args.texts]

    def of_images(paths):
        pixels = processor(images=[Image.open(path).convert("RGB") for path in paths], return_tensors="pt")
        return pooled(model.get_image_features(**pixels))

    def of_texts(batch):
        return pooled(model.get_text_features(**tokens(batch, padding=True, truncation=True, return_tensors="pt")))

    line, kept = {"threads": args.threads}, {}
    for name, rows, encode in (("images", images, of_images), ("texts", texts, of_texts)):
        if rows:
            encode(rows[:BATCH])
            kept[name], seconds = loop(rows, encode)
            line[name] = {"rows": len(rows), "seconds": round(seconds, 3)}
    numpy.savez(args.out, **kept)
    print(json.dumps(line))
