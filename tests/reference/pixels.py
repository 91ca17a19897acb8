"""Writes tests/fixtures/pixels: pictures and what Hugging Face's image processors make of them.

Usage: python pixels.py OUT_DIR      (pip install torch transformers safetensors pillow; written with transformers 5.23,
Pillow 13.0). The pictures are smooth noise with edges, of odd sizes, stored as PNG; expected.safetensors holds PROCESSOR.NAME, the pixels
as bytes [3, S, S] before normalisation, and PROCESSOR.NAME.normalised for one picture. PROCESSOR.json is the
preprocessor_config.json that `save_pretrained` writes. jpeg/KIND.jpg is one picture in every form of JPEG that Pillow writes
and in two that the program `cjpeg` of libjpeg-turbo does, jpeg/expected.safetensors what Pillow reads it as, bytes [H, W, 3];
KIND.2, KIND.4 and KIND.8 are what its `draft` makes of it.
"""
import io
import pathlib
import subprocess
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers.models.bridgetower.image_processing_pil_bridgetower import BridgeTowerImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

OUT = pathlib.Path(sys.argv[1])
OUT.mkdir(parents=True, exist_ok=True)
SIZES = {"wide": (101, 68), "tall": (53, 90), "square": (77, 77), "small": (30, 41), "strip": (120, 61)}
PROCESSORS = {
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 47}, crop_size={"height": 47, "width": 47}),
    "vit": ViTImageProcessorPil(size={"height": 48, "width": 48}),
    "bridgetower": BridgeTowerImageProcessorPil(size={"shortest_edge": 72}, crop_size={"shortest_edge": 72}),
}


def ppm(picture):
    stream = io.BytesIO()
    picture.save(stream, "PPM")
    return stream.getvalue()


expected = {}
random = np.random.default_rng(3)
for name, (width, height) in SIZES.items():
    coarse = Image.fromarray(random.integers(0, 256, (9, 11, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.BICUBIC)).astype(np.int16)
    edges = np.where((np.indices((height, width)).sum(0) // 13 % 2)[..., None], 40, -40)
    picture = Image.fromarray(np.clip(smooth + edges, 0, 255).astype(np.uint8))
    picture.save(OUT / f"{name}.png")
    for kind, processor in PROCESSORS.items():
        raw = processor(picture, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        expected[f"{kind}.{name}"] = torch.from_numpy(np.ascontiguousarray(raw).astype(np.uint8))
        if name == "tall":
            whole = processor(picture, return_tensors="np")["pixel_values"][0]
            expected[f"{kind}.{name}.normalised"] = torch.from_numpy(np.ascontiguousarray(whole).astype(np.float32))
    if name == "small":
        jpegs, read = OUT / "jpeg", {}
        jpegs.mkdir(exist_ok=True)
        kinds = {f"{chroma}-{'progressive' if progressive else 'baseline'}": ("RGB", dict(subsampling=chroma, progressive=progressive))
                 for chroma in ("444", "422", "420") for progressive in (False, True)}
        kinds |= {"restart": ("RGB", dict(subsampling="420", restart_marker_blocks=2)), "optimised": ("RGB", dict(optimize=True)),
                  "low": ("RGB", dict(quality=12)), "grey": ("L", {}), "cmyk": ("CMYK", {})}
        for jpeg, (mode, options) in kinds.items():
            options = {"quality": 85, **options}
            options["subsampling"] = {"444": "4:4:4", "422": "4:2:2", "420": "4:2:0"}[options.get("subsampling", "420")]
            picture.convert(mode).save(jpegs / f"{jpeg}.jpg", **options)
        for jpeg, sampling in (("440", "1x2"), ("411", "4x1")):
            portable = subprocess.run(["cjpeg", "-sample", sampling], input=ppm(picture), capture_output=True, check=True)
            (jpegs / f"{jpeg}.jpg").write_bytes(portable.stdout)
        # A progressive file that ends between two of its passes, as proxies write them.
        stored = (jpegs / "420-progressive.jpg").read_bytes()
        scans = [at for at in range(len(stored)) if stored[at:at + 2] == b"\xff\xda"]
        (jpegs / "unrefined.jpg").write_bytes(stored[:scans[3]] + b"\xff\xd9")
        for jpeg in [*kinds, "440", "411", "unrefined"]:
            for scale in (1, 2, 4, 8):
                opened = Image.open(jpegs / f"{jpeg}.jpg")
                opened.draft(None, (width // scale, height // scale))
                read[jpeg if scale == 1 else f"{jpeg}.{scale}"] = torch.from_numpy(np.array(opened.convert("RGB")))
        save_file(read, jpegs / "expected.safetensors")
for kind, processor in PROCESSORS.items():
    processor.save_pretrained(OUT)
    (OUT / "preprocessor_config.json").rename(OUT / f"{kind}.json")
save_file(expected, OUT / "expected.safetensors")
print({k: tuple(v.shape) for k, v in expected.items()})
