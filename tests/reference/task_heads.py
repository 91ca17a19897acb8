"""Writes crates/unimo-objectives/tests/fixtures/heads.safetensors: heads and losses of tasks by transformers and PyTorch.

Usage: python task_heads.py FILE      (pip install torch transformers safetensors; written with torch 2.15, transformers 5.24)

    vqa         ViltForQuestionAnswering: its classifier, and its loss: binary cross-entropy x number of answers
    pair        ViltForImagesAndTextClassification: its classifier over two images, and cross-entropy
    bridge_vqa  torch Sequential in BridgeTower's proportions for VQA: 2 D -> 4 D -> C, binary cross-entropy x C
    bridge_pair the same for NLVR2: 4 D -> 3 D -> 2, cross-entropy

Of each: `x` [B, D], the parameters `0`, `1` and `3` of the classifier, `targets`, `logits`, `loss`, and the gradients of the loss
as `grad.x` and `grad.PARAMETER`.
"""
import sys

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import ViltConfig, ViltForImagesAndTextClassification, ViltForQuestionAnswering

D, B, ANSWERS = 8, 4, 6
tensors = {}


def add(name, head, d_in, classes, loss_of):
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    head.eval()
    x = torch.randn(B, d_in, requires_grad=True)
    logits = head(x)
    loss, targets = loss_of(logits, classes)
    loss.backward()
    tensors[f"{name}.x"] = x.detach()
    tensors[f"{name}.targets"] = targets
    tensors[f"{name}.logits"] = logits.detach()
    tensors[f"{name}.loss"] = loss.detach().reshape(1)
    tensors[f"{name}.grad.x"] = x.grad
    for key, parameter in head.named_parameters():
        tensors[f"{name}.{key}"] = parameter.detach()
        tensors[f"{name}.grad.{key}"] = parameter.grad


def answers(logits, classes):
    """Scores 0, 0.3, 0.6, 0.9 and 1, as ViltForQuestionAnswering's loss takes them."""
    drawn = torch.randint(0, 5, logits.shape)
    scores = torch.tensor([0.0, 0.3, 0.6, 0.9, 1.0])[drawn]
    return nn.functional.binary_cross_entropy_with_logits(logits, scores) * classes, scores


def one_class(logits, classes):
    labels = torch.randint(0, classes, (logits.shape[0],))
    return nn.functional.cross_entropy(logits, labels), labels.float()


def sequential(d_in, inner, classes):
    return nn.Sequential(nn.Linear(d_in, inner), nn.LayerNorm(inner), nn.GELU(), nn.Linear(inner, classes))


torch.manual_seed(0)
config = ViltConfig(
    hidden_size=2 * D,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    vocab_size=20,
    image_size=8,
    patch_size=4,
    num_images=2,
    num_labels=ANSWERS,
)
add("vqa", ViltForQuestionAnswering(config).classifier, 2 * D, ANSWERS, answers)
config.num_labels = 2
add("pair", ViltForImagesAndTextClassification(config).classifier, 4 * D, 2, one_class)
add("bridge_vqa", sequential(2 * D, 4 * D, ANSWERS), 2 * D, ANSWERS, answers)
add("bridge_pair", sequential(4 * D, 3 * D, 2), 4 * D, 2, one_class)
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, sys.argv[1])
