"""Supervised attention (WS-MGMap's weakly supervised localisation) in PyTorch: what tests of `tasks/locate.rs` compare with.

Run: python tests/reference/locate.py

Prints losses, and gradients with respect to the attention's logits, for two samples of 3 x 3 patches.
"""

import torch

torch.set_printoptions(precision=7, sci_mode=False, linewidth=120)
LOGITS = torch.tensor(
    [[0.2, -0.4, -1.1, 0.3, 1.5, -1.0, -2.0, -1.5, 0.7], [-0.7, 0.9, 0.1, -0.6, 2.0, 1.2, -3.0, -0.3, 0.4]]
)
BOXES = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.5, 0.25, 1.0, 0.95]])
SIDE = 3


def distances(boxes):
    at = (torch.arange(SIDE) + 0.5) / SIDE
    y, x = torch.meshgrid(at, at, indexing="ij")
    x, y = x.reshape(1, -1), y.reshape(1, -1)
    left, top, right, bottom = (boxes[:, i : i + 1] for i in range(4))
    dx = torch.clamp(torch.maximum(left - x, x - right), min=0)
    dy = torch.clamp(torch.maximum(top - y, y - bottom), min=0)
    return torch.sqrt(dx**2 + dy**2)


for name, over in [("sample", 1), ("batch", None)]:
    logits = LOGITS.clone().requires_grad_()
    d = distances(BOXES)
    most, least = (d.max(), d.min()) if over is None else (d.max(1, keepdim=True)[0], d.min(1, keepdim=True)[0])
    # WS-MGMap's aux_prediction: softmax of the scaled nearness over 0.07, then F.kl_div of the log of the attention.
    target = torch.softmax((most - d) / (most - least) / 0.07, 1)
    attention = torch.softmax(logits, 1)
    each = torch.nn.functional.kl_div(attention.log(), target, reduction="none")
    loss = each.sum(1).mean()
    loss.backward()
    print(name, "sum", loss.item(), "mean over places", each.mean(1).mean().item())
    print(logits.grad)
