"""Writes tests/fixtures/augment: a small picture and what Pillow and torchvision make of it, operation by operation.

Usage: python augment.py OUT_DIR      (pip install torch torchvision safetensors pillow; written with Pillow 13.0, torchvision 0.29)
picture.png is seeded noise, smooth with edges and grey parts; expected.safetensors holds NAME.STRENGTH, bytes [H, W, 3], and
list.LIST.MAGNITUDE, the strengths that a list of RandAugment gives its operations in its own order: torchvision's from its code,
METER's from the table in its randaug.py.
"""
import pathlib
import sys

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from safetensors.torch import save_file
from torchvision.transforms import RandAugment, functional

OUT = pathlib.Path(sys.argv[1])
OUT.mkdir(parents=True, exist_ok=True)
WIDTH, HEIGHT = 41, 29


def affine(picture, *matrix):
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix)


def solarize_add(picture, addition):
    more = np.clip(np.array(picture).astype(int) + addition, 0, 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(more), 128)


ENHANCED = [0.0, 0.1, 0.64, 1.0, 1.37, 1.9]
OPERATIONS = {
    "auto_contrast": (lambda p, _: ImageOps.autocontrast(p), [0]),
    "equalize": (lambda p, _: ImageOps.equalize(p), [0]),
    "posterize": (lambda p, v: ImageOps.posterize(p, v), [1, 4, 7]),
    "solarize": (lambda p, v: ImageOps.solarize(p, v), [0, 76.8, 256]),
    "solarize_add": (solarize_add, [33.0, 25.666666666666668, 110.0]),
    "brightness": (lambda p, v: ImageEnhance.Brightness(p).enhance(v), ENHANCED),
    "contrast": (lambda p, v: ImageEnhance.Contrast(p).enhance(v), ENHANCED),
    "saturation": (lambda p, v: ImageEnhance.Color(p).enhance(v), ENHANCED),
    "sharpness": (lambda p, v: ImageEnhance.Sharpness(p).enhance(v), ENHANCED),
    "hue": (functional.adjust_hue, [-0.5, -0.31, -0.03, 0.0, 0.1, 0.5]),
    "shear_x": (lambda p, v: affine(p, 1, v, 0, 0, 1, 0), [-0.3, 0.09, 0.27]),
    "shear_y": (lambda p, v: affine(p, 1, 0, 0, v, 1, 0), [-0.27, 0.09, 0.3]),
    "translate_x": (lambda p, v: affine(p, 1, 0, v, 0, 1, 0), [-7.5, 3.4, 30.0]),
    "translate_y": (lambda p, v: affine(p, 1, 0, 0, 0, 1, v), [-11.0, 3.6, 12.5]),
    "rotate": (lambda p, v: p.rotate(v), [-30.0, -9.0, 2.5, 17.0, 30.0]),
}
METER = [(0, 1), (0, 1), (0, 30), (0, 4), (0, 256), (0, 110), (0.1, 1.9), (0.1, 1.9), (0.1, 1.9), (0.1, 1.9), (0.0, 0.3), (0.0, 0.3),
         (0.0, 100), (0.0, 100)]

random = np.random.default_rng(5)
coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(np.int16)
edges = np.where((np.indices((HEIGHT, WIDTH)).sum(0) // 9 % 2)[..., None], 30, -30)
levels = np.clip((smooth + edges + random.integers(-8, 9, smooth.shape)) * 0.8 + 20, 7, 240).astype(np.uint8)
levels[-3:] = levels[-3:, :, :1]
picture = Image.fromarray(levels)
picture.save(OUT / "picture.png")

expected = {}
for name, (operation, strengths) in OPERATIONS.items():
    for strength in strengths:
        changed = np.array(operation(picture, strength))
        expected[f"{name}.{strength}"] = torch.from_numpy(changed)
for magnitude in range(31):
    space = RandAugment(magnitude=magnitude)._augmentation_space(31, (375, 500))
    theirs = [float(all[magnitude]) if all.ndim else 0.0 for all, _ in space.values()]
    expected[f"list.torchvision.{magnitude}"] = torch.tensor(theirs, dtype=torch.float32)
    theirs = [magnitude / 30 * float(high - low) + low for low, high in METER]
    expected[f"list.meter.{magnitude}"] = torch.tensor(theirs, dtype=torch.float32)
save_file(expected, OUT / "expected.safetensors")
print(len(expected), "tensors", sum(tensor.numel() * tensor.element_size() for tensor in expected.values()), "bytes")
