"""Writes tests/fixtures/lora.json: two linear layers with peft's adapters, their outputs and their gradients.

Usage: python lora.py OUT_FILE      (pip install torch peft; written with the versions that `made_by` names)

The model is `second(tanh(first(x)))` in f64, `first` with a bias and `second` without. Both have an adapter of rank 3 with alpha 12. Dropout
is 0: its draws are no formula. The loss is `(output * upstream).sum()`. Numbers are `[out, in]` as PyTorch stores them.
"""
import json
import pathlib
import sys

import peft
import torch

torch.manual_seed(5)
torch.set_default_dtype(torch.float64)
IN, INNER, OUT, RANK, ALPHA = 7, 9, 5, 3, 12


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(IN, INNER)
        self.second = torch.nn.Linear(INNER, OUT, bias=False)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


model = Model()
config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["first", "second"], lora_dropout=0.0, bias="none")
model = peft.get_peft_model(model, config)
adapters = {}
for name in ["first", "second"]:
    layer = getattr(model.base_model.model, name)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    # peft begins with B = 0, at which A has no gradient.
    with torch.no_grad():
        b.copy_(torch.randn_like(b) * 0.4)
    adapters[name] = (layer, a, b)
x = torch.randn(2, 4, IN).requires_grad_()
upstream = torch.randn(2, 4, OUT)
output = model(x)
(output * upstream).sum().backward()
learning = sorted(name for name, p in model.named_parameters() if p.requires_grad)
assert all("lora_" in name for name in learning) and len(learning) == 4
merged = {}
for name, (layer, _, _) in adapters.items():
    merged[name] = (layer.base_layer.weight + layer.get_delta_weight("default")).tolist()
result = {
    "made_by": f"tests/reference/lora.py with torch {torch.__version__}, peft {peft.__version__}",
    "rank": RANK,
    "alpha": ALPHA,
    "x": x.detach().tolist(),
    "upstream": upstream.tolist(),
    "output": output.detach().tolist(),
    "x_gradient": x.grad.tolist(),
    "layers": {
        name: {
            "weight": layer.base_layer.weight.tolist(),
            "bias": None if layer.base_layer.bias is None else layer.base_layer.bias.tolist(),
            "a": a.tolist(),
            "b": b.tolist(),
            "a_gradient": a.grad.tolist(),
            "b_gradient": b.grad.tolist(),
            "merged": merged[name],
        }
        for name, (layer, a, b) in adapters.items()
    },
}
rounded = json.loads(json.dumps(result), parse_float=lambda s: round(float(s), 9))
pathlib.Path(sys.argv[1]).write_text(json.dumps(rounded) + "\n")
