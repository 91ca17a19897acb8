"""What `unimo data bench` is set beside: the same batches by torchvision (Pillow) and PyTorch's DataLoader.

    python tests/reference/data_bench.py LIST.jsonl TOKENIZER.json [--image-column image] [--text-column caption]
        [--size 224] [--batch 64] [--batches 40] [--workers 1,2] [--crop] [--randaugment] [--draft]

Decode (with --draft as small as is enough, as `data.decode = "scaled"`), resize (bicubic; with --crop a random resized crop and a
flip), normalise, tokenise, mask 15% of the tokens, batch. One JSON object a line, with the fields of `unimo data bench`. Needs torch,
torchvision, tokenizers.
"""
import argparse
import json
import math
import pathlib
import random
import resource
import time

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

parser = argparse.ArgumentParser()
parser.add_argument("list", type=pathlib.Path)
parser.add_argument("tokenizer")
parser.add_argument("--image-column", default="image")
parser.add_argument("--text-column", default="caption")
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--batches", type=int, default=40)
parser.add_argument("--workers", default="1,2")
parser.add_argument("--length", type=int, default=48)
parser.add_argument("--crop", action="store_true")
parser.add_argument("--randaugment", action="store_true")
parser.add_argument("--draft", action="store_true")
args = parser.parse_args()
torch.set_num_threads(1)

SMALLEST, NARROWEST = 0.4, 3 / 4
# The shorter side of the smallest part that may be cut out has the model's size.
enough = math.ceil(args.size / math.sqrt(SMALLEST * NARROWEST) if args.crop else args.size)
BICUBIC = T.InterpolationMode.BICUBIC
steps = [T.RandAugment(2, 9)] if args.randaugment else []
if args.crop:
    steps += [T.RandomResizedCrop(args.size, (SMALLEST, 1.0), (NARROWEST, 1 / NARROWEST), interpolation=BICUBIC), T.RandomHorizontalFlip()]
else:
    steps += [T.Resize(args.size, BICUBIC), T.CenterCrop(args.size)]
transform = T.Compose([*steps, T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)])


class Pairs(Dataset):
    def __init__(self):
        rows = [json.loads(line) for line in args.list.open()]
        self.rows = [(args.list.parent / r[args.image_column], r[args.text_column]) for r in rows if r.get(args.text_column)]
        self.tokenizer = Tokenizer.from_file(args.tokenizer)
        self.mask = self.tokenizer.token_to_id("<mask>") or self.tokenizer.token_to_id("[MASK]")
        self.vocabulary = self.tokenizer.get_vocab_size()

    def __len__(self):
        # As often as it takes: the same pictures again and again, as in later epochs.
        return max(len(self.rows), args.batch * (args.batches + 16))

    def __getitem__(self, index):
        path, text = self.rows[index % len(self.rows)]
        picture = Image.open(path)
        if args.draft:
            picture.draft("RGB", (enough, enough))
        picture = transform(picture.convert("RGB"))
        ids = self.tokenizer.encode(text).ids[: args.length]
        labels = [-100] * len(ids)
        for at in range(1, len(ids) - 1):
            if random.random() < 0.15:
                labels[at] = ids[at]
                draw = random.random()
                ids[at] = self.mask if draw < 0.8 else random.randrange(self.vocabulary) if draw < 0.9 else ids[at]
        return picture, ids, labels


def collate(samples):
    longest = max(len(ids) for _, ids, _ in samples)
    pad = lambda rows, value: torch.tensor([row + [value] * (longest - len(row)) for row in rows])
    return torch.stack([s[0] for s in samples]), pad([s[1] for s in samples], 1), pad([s[2] for s in samples], -100)


for workers in map(int, args.workers.split(",")):
    loader = DataLoader(Pairs(), args.batch, shuffle=True, num_workers=workers, collate_fn=collate, prefetch_factor=4)
    batches = iter(loader)
    for _ in range(max(3, 4 * workers)):
        next(batches)
    began = time.perf_counter()
    for _ in range(args.batches):
        next(batches)
    rate = args.batches * args.batch / (time.perf_counter() - began)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"program": "torchvision", "workers": workers, "batch": args.batch, "batches": args.batches,
                      "image_size": args.size, "augment": args.crop or args.randaugment, "images_per_second": rate,
                      "images_per_second_per_worker": rate / workers,
                      "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + workers * children) / 1e3}), flush=True)
    del batches, loader
