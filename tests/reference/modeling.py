"""Writes tests/fixtures/modeling: models of the code that `unimo export` puts beside its weights, with inputs, outputs and gradients.

Usage: python modeling.py OUT_DIR      (pip install torch transformers safetensors pillow; written with torch 2.15, transformers 5.24)
       python modeling.py --compare UNIMO EXPORT LIST.jsonl

The first form makes tiny random models of every kind from crates/unimo-train/python alone, loaded as a user loads them:
`AutoModel.from_pretrained(FOLDER, trust_remote_code=True)`. OUT_DIR/NAME/ has config.json, model.safetensors and io.safetensors with
`in.*`, `out.*` and `grad.*`, the gradients of `out.loss` for vectors (norms, biases, gates). The file's notes have the SHA-256 of the
code: a test says so if it has changed since. `cargo xtask parity OUT_DIR` compares.

The second form compares an export of a run with `unimo score`, `embed` and `fill-mask`, and the same after `save_pretrained`. UNIMO is
the binary. LIST has an image and a caption per line; images have the size that the model reads, so that nothing is resized.
"""
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers as tf
from safetensors import safe_open
from safetensors.torch import save_file

tf.utils.logging.disable_progress_bar()
SEED = 7
CODE = pathlib.Path(__file__).parent.parent.parent / "crates/unimo-train/python"
# Codes are chosen by sums that differ by this at least, so that rounding chooses none.
MARGIN = 1e-3


def load(folder):
    """As a user does, and nothing missing or left over."""
    model, account = tf.AutoModel.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32, output_loading_info=True
    )
    wrong = {key: sorted(account[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if account[key]}
    assert not wrong, f"{folder}: {wrong}"
    return model.eval()


# Fixtures

BLOCK = dict(width=8, heads=2, feed_forward=12, layer_norm_eps=1e-5, dropout=0.0)
TEXT = BLOCK | dict(vocab_size=19, layers=2, max_positions=12, positions="after_pad", token_types=1, pad_id=1, activation="gelu")
IMAGE = BLOCK | dict(image_size=8, patch_size=4, layers=3, activation="quick_gelu", pre_norm=True, patch_bias=False, distillation_token=False)
BERT = TEXT | dict(positions="from_zero", token_types=2, pad_id=0, activation="gelu_tanh")
DEIT = IMAGE | dict(pre_norm=False, patch_bias=True, distillation_token=True, qkv_bias=False, activation="silu")
FUSION = BLOCK | dict(
    layers=2, activation="gelu", in_layer=True, levels="none", uni_levels=0, gate="cls", gate_beta=1.0, link="none"
)
JOINT = BLOCK | dict(layers=2, activation="relu", image_class=True)
CODES = dict(codes=12, tokens=3, choice="top_k", scale=2.0, scale_range=[1.0, 100.0])

MLM = dict(weight=1.0, mask=dict(rate=0.15, unit="token", mask_share=0.8, random_share=0.1))
ITM = dict(weight=1.0, negatives="uniform", layout="half")
ITC = dict(weight=1.0, views="two", width=6, temperature=0.07, temperature_range=[0.001, 0.5])
VQA = dict(weight=1.0, classes=5, pooling="pair", head=dict(hidden=10, dropout=0.0))
SNLI_VE = dict(weight=1.0, pooling="sum", head=dict(hidden=16, dropout=0.0))


def of(text=TEXT, image=IMAGE, objectives=None, **cross):
    model = dict(initializer_range=0.02, text=text, image=image) | cross
    return dict(model=model, objectives=objectives or dict(mlm=MLM, itm=ITM, itc=ITC))


MODELS = {
    "unimo3-cls": of(
        fusion=FUSION | dict(levels="cross_prev"), objectives=dict(mlm=MLM, itm=ITM, itc=ITC, vqa=VQA)
    ),
    "unimo3-token": of(BERT, DEIT, fusion=FUSION | dict(levels="both", uni_levels=2, gate="token")),
    "unimo3-static": of(fusion=FUSION | dict(levels="uni_top_n", uni_levels=2, gate="static", in_layer=False)),
    "meter": of(fusion=FUSION, objectives=dict(mlm=MLM, itm=ITM, snli_ve=SNLI_VE | dict(pooling="product"))),
    "bridge-scaled": of(fusion=FUSION | dict(link="scaled_add_norm", uni_levels=2)),
    "bridge-interpolate": of(
        fusion=FUSION | dict(link="interpolate_norm", uni_levels=2, shared_transforms=False),
        objectives=dict(mlm=MLM, itm=ITM, itc=ITC | dict(views="three")),
    ),
    "manager": of(fusion=FUSION | dict(link="managers", uni_levels=2)),
    "unimo2": of(
        joint=JOINT | dict(grounding=CODES),
        objectives=dict(
            mlm=MLM | dict(tied=True), itm=ITM | dict(head="product"), itc=ITC | dict(width=8, projection="none"),
        ),
    ),
    "unimo2-nearest": of(
        BERT,
        DEIT,
        joint=JOINT | dict(grounding=CODES | dict(tokens=9, choice="nearest")),
        objectives=dict(mlm=MLM, itm=ITM | dict(head="product"), itc=ITC | dict(normalised="images")),
    ),
    "mvp": of(
        joint=JOINT | dict(image_class=False),
        objectives=dict(
            mlm=MLM, itm=ITM | dict(head="text"), itc=ITC | dict(projection="linear_no_bias"), vqa=VQA | dict(pooling="class"),
            snli_ve=SNLI_VE | dict(pooling="text"),
        ),
    ),
    "mamo": of(
        joint=JOINT | dict(image_class=True),
        objectives=dict(mlm=MLM | dict(tied=True), itm=ITM | dict(head="class"), itc=ITC),
    ),
    "towers": of(objectives=dict(mlm=MLM, itc=ITC)),
}


def randomise(model, generator):
    """No weight, norm or bias at its neutral value, so that no slip in a name stays hidden."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "logit_scale" in name or "tau" in name:
                p.fill_(2.0)
            elif "codebook" in name:
                p.copy_(noise)
            elif p.ndim == 2:
                p.copy_(noise * 0.3)
            else:
                p.add_(noise * 0.2)


def clear_choice(model, x):
    """No code is chosen by a hair."""
    quantiser = model.backbone.joint.quantiser
    found = {}
    hook = quantiser.register_forward_pre_hook(lambda _, given: found.update(states=given[0], seen=given[1]))
    model(**x)
    hook.remove()
    products = found["states"] @ quantiser.codebook.T
    if quantiser.choice == "top_k":
        sums = (torch.sigmoid(products * quantiser.tau) * found["seen"][..., None]).sum(1)
        ordered = sums.sort(1, descending=True).values[:, : quantiser.tokens + 1]
    else:
        ordered = (2 * products - quantiser.codebook.square().sum(1)).sort(2, descending=True).values[..., :2]
    gap = (ordered[..., :-1] - ordered[..., 1:]).min().item()
    assert gap > MARGIN, f"codes differ by {gap}: another seed"


def inputs(model):
    ids = torch.randint(5, 18, (3, 7))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    mask[2, 3:] = 0
    ids = ids.masked_fill(mask == 0, model["text"]["pad_id"])
    return dict(input_ids=ids, attention_mask=mask, pixel_values=torch.randn(3, 3, 8, 8))


def loss_of(o):
    """It reaches every head."""
    scores = [o.mlm_logits, o.itm_logits, o.logits_per_text, o.vqa_logits, o.snli_ve_logits, o.cross_embeds]
    scores = [s for s in scores if s is not None]
    # Embeddings have length 1, so their squares say nothing.
    return sum((s[:, : s.shape[1] // 2] if s is o.cross_embeds else s).square().mean() for s in scores)


def fixture(out, name, described):
    torch.manual_seed(SEED)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    head = dict(
        model_type="unimo",
        architectures=["UnimoModel"],
        auto_map=dict(AutoConfig="configuration_unimo.UnimoConfig", AutoModel="modeling_unimo.UnimoModel"),
        dtype="float32",
    )
    (folder / "config.json").write_text(json.dumps(head | described, indent=2) + "\n")
    with tempfile.TemporaryDirectory() as scratch:
        # The code is loaded from where an export has it.
        place = pathlib.Path(scratch) / name.replace("-", "_")
        shutil.copytree(CODE, place, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(folder / "config.json", place)
        config = tf.AutoConfig.from_pretrained(place, trust_remote_code=True)
        made = tf.AutoModel.from_config(config, trust_remote_code=True)
        randomise(made, torch.Generator().manual_seed(SEED))
        own = lambda t: t.detach().contiguous().clone()
        weights = {key: own(value) for key, value in made.state_dict().items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        shutil.copy(folder / "model.safetensors", place)
        model = load(place)
    x = inputs(described["model"])
    if getattr(model.backbone.joint, "quantiser", None) is not None:
        clear_choice(model, x)
    o = model(**x)
    loss = loss_of(o)
    loss.backward()
    io = {f"in.{k}": v for k, v in x.items()}
    names = [
        "text_state", "image_state", "text_embeds", "image_embeds", "cross_embeds", "logits_per_text", "itm_logits", "mlm_logits",
        "vqa_logits", "snli_ve_logits",
    ]
    io |= {f"out.{key}": own(o[key]) for key in names if o.get(key) is not None}
    for layer, (text, image) in enumerate(o.gates or []):
        io |= {f"out.gate.text.{layer}": own(text), f"out.gate.image.{layer}": own(image)}
    if o.codes is not None:
        io["out.codes"] = o.codes.float()
    io["out.loss"] = own(loss).reshape(1)
    io |= {f"grad.{k}": own(p.grad) for k, p in model.named_parameters() if p.grad is not None and p.ndim < 2}
    code = hashlib.sha256((CODE / "modeling_unimo.py").read_bytes()).hexdigest()
    save_file(io, folder / "io.safetensors", metadata={"gradients": "some", "modeling": code})
    print(f"{name}: {len(weights)} weights, {len(io)} tensors, loss {loss.item():.6f}")


# An export


def compare(unimo, export, list_path):
    from PIL import Image

    rows = [json.loads(line) for line in list_path.open()]
    paths = [list_path.parent / row["image"] for row in rows]

    def run(*args):
        return subprocess.run([unimo, *map(str, args)], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout

    tokenizer = tf.AutoTokenizer.from_pretrained(export, trust_remote_code=True)
    # From its file: an export has the class that its preparation of pictures needs.
    processor = tf.AutoImageProcessor.from_pretrained(export, trust_remote_code=True)
    model = load(export)

    def words(texts):
        texts = [" ".join(text.split()) for text in texts]
        x = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return dict(input_ids=x["input_ids"], attention_mask=x["attention_mask"])

    pixels = processor([Image.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"]
    out = pathlib.Path(tempfile.mkdtemp())
    with torch.no_grad():
        o = model(**words([row["caption"] for row in rows]), pixel_values=pixels)
        print(f"{export}: {len(rows)} pairs")
        if o.itm_logits is not None:
            theirs = o.itm_logits[:, 1] - o.itm_logits[:, 0]
            run("score", export, "--data", list_path, "--out", out / "s.jsonl")
            ours = torch.tensor([json.loads(line)["logit"] for line in (out / "s.jsonl").open()])
            print(f"  score, log-odds up to {ours.abs().max():.2f}: largest difference {(ours - theirs).abs().max():.1e}")
        if o.text_embeds is not None:
            run("embed", export, "--images", list_path, "--texts", list_path, "--out", out / "e.safetensors")
            found = safe_open(out / "e.safetensors", "pt")
            for what, theirs, keys in (
                ("images", o.image_embeds, [row["image"] for row in rows]),
                ("texts", o.text_embeds, [row["caption"] for row in rows]),
            ):
                ids = json.loads(found.metadata()[f"{what}.ids"])
                at = torch.tensor([ids.index(key) for key in keys])
                print(f"  embed {what}: largest difference {(found.get_tensor(what)[at] - theirs).abs().max():.1e}")
        if o.mlm_logits is not None:
            worst, same, tried = 0.0, 0, 0
            for row, path, image in list(zip(rows, paths, pixels))[:8]:
                parts = row["caption"].split()
                parts[len(parts) // 2] = tokenizer.mask_token
                x = words([" ".join(parts)])
                at = (x["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0]
                shares = model(**x, pixel_values=image[None]).mlm_logits[0, at].softmax(-1)
                found = json.loads(run("fill-mask", export, "--image", path, "--text", " ".join(parts), "--json"))[0]
                worst = max([worst] + [abs(c["score"] - shares[c["id"]].item()) for c in found])
                same += [c["id"] for c in found] == shares.topk(len(found)).indices.tolist()
                tried += 1
            print(f"  fill-mask: largest difference {worst:.1e}, the same five words in the same order in {same} of {tried}")
        if o.itm_logits is not None:
            # What PyTorch saves is read by unimo again.
            model.save_pretrained(out / "saved")
            for beside in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
                shutil.copy(export / beside, out / "saved")
            run("score", out / "saved", "--data", list_path, "--out", out / "t.jsonl")
            print("  after save_pretrained: scores", "equal" if (out / "s.jsonl").read_text() == (out / "t.jsonl").read_text() else "DIFFER")
    shutil.rmtree(out)


if __name__ == "__main__":
    if sys.argv[1] == "--compare":
        compare(sys.argv[2], pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[4]))
    else:
        for name, described in MODELS.items():
            fixture(pathlib.Path(sys.argv[1]), name, described)
