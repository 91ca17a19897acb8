"""The configuration of a model that `unimo export` wrote."""

from transformers import PretrainedConfig


class UnimoConfig(PretrainedConfig):
    """`model` describes the encoders and `objectives` the heads, with the names of unimo's recipes."""

    model_type = "unimo"

    def __init__(self, model=None, objectives=None, **kwargs):
        self.model = model or {}
        self.objectives = objectives or {}
        super().__init__(**kwargs)
