"""Imports, exports and loads again with transformers: every tensor must come back bit for bit.

Usage: python round_trip.py UNIMO FOLDER...      (pip install torch transformers safetensors)

UNIMO is the binary; each FOLDER is a Hugging Face folder of BERT, RoBERTa, XLM-R, ViT, DeiT, CLIP or BridgeTower.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers as tf
from safetensors import safe_open
from safetensors.torch import load_file

# Heads and buffers that unimo's models do not have; transformers makes them anew.
NOT_OURS = ("pooler.", "text_model.pooler.")
failed = False
for folder in map(pathlib.Path, sys.argv[2:]):
    config = json.loads((folder / "config.json").read_text())
    make = getattr(tf, config["architectures"][0])
    out = pathlib.Path(tempfile.mkdtemp()) / "exported"
    subprocess.run([sys.argv[1], "export", folder, "--out", out], check=True, stdout=subprocess.DEVNULL)
    exported = json.loads((out / "config.json").read_text())["architectures"][0]
    original = make.from_pretrained(folder, dtype=torch.float32).eval()
    again, info = getattr(tf, exported).from_pretrained(out, output_loading_info=True)
    before, after = original.state_dict(), again.eval().state_dict()
    ours = [k for k in before if not any(part in k for part in NOT_OURS)]
    different = [k for k in ours if k not in after or not torch.equal(before[k], after[k])]
    missing = [k for k in info["missing_keys"] if not any(part in k for part in NOT_OURS)]
    # Of a folder with several heads, every class leaves the others' aside.
    held = set(safe_open(folder / "model.safetensors", "pt").keys())
    unexpected = [k for k in info["unexpected_keys"] if k not in held]
    good = not different and not missing and not unexpected and not info["mismatched_keys"]
    same = "no inputs to compare outputs on"
    if good and (folder / "io.safetensors").exists():
        inputs = {k[3:]: v for k, v in load_file(folder / "io.safetensors").items() if k.startswith("in.")}
        with torch.no_grad():
            a, b = original(**inputs), again(**inputs)
        first = next(k for k in ("logits", "image_embeds", "last_hidden_state") if k in a)
        good = torch.equal(a[first], b[first])
        same = f"{first} {'equal' if good else 'DIFFERS'}"
    failed |= not good
    print(f"{folder.name}: {exported}, {len(ours)} tensors", f"bit-equal, {same}" if good else f"DIFFER {different[:3]} {missing[:3]} {info}")
sys.exit(failed)
