"""Loads pruned directories in Transformers: a registered quantizer that resizes linear layers before weights are read.

Transformers cannot load layers of different widths by itself, but it lets a registered quantizer prepare the model
before the weights are loaded. After `import trimformer`, `AutoModel*.from_pretrained` and `pipeline` therefore load a
pruned directory and return a plain model, without any trace of the quantizer.
"""

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from trimformer.checkpoints.load_guard import QUANT_METHOD, open_guard
from trimformer.checkpoints.shrink import resize_by
from trimformer.checkpoints.standalone import restore_library_class
from trimformer.errors import TrimformerError


@register_quantization_config(QUANT_METHOD)
class TrimformerConfig(QuantizationConfigMixin):
    """The widths in a pruned config; Transformers names this class if another quantization is requested."""

    def __init__(
        self,
        heads: list[int],
        neurons: list[int],
        kept_heads: list[list[int] | None] | None = None,
        new_biases: list[int] | None = None,
        queries: list[int] | None = None,
        **_: Any,
    ) -> None:
        self.quant_method = QUANT_METHOD  # type: ignore[assignment]
        self.heads, self.neurons = heads, neurons
        if kept_heads is not None:
            self.kept_heads = kept_heads
        if new_biases is not None:
            self.new_biases = new_biases
        if queries is not None:
            self.queries = queries


@register_quantizer(QUANT_METHOD)
class _Resizer(HfQuantizer):  # type: ignore[misc]
    quantization_config: TrimformerConfig
    _shapes: dict[str, tuple[int, ...]]

    def update_attn_implementation(self, config: PreTrainedConfig) -> PreTrainedConfig:
        open_guard(config)  # the only hook that sees the config before the weights are looked for
        return config

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        resize_by(model, vars(self.quantization_config))
        self._shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        # Before 5.23, Transformers takes weights of any shape if a model has a quantizer.
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if (shape := tuple(parameter.shape)) != self._shapes.get(name, shape):
                raise TrimformerError(f"{name} is {shape}, but {self._shapes[name]} by the config; they do not match")
        # A plain model from here on: it can be halved, trained, and saved with its widths in the config.
        self.remove_quantization_config(model)
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                vars(module.config).pop("_is_quantized", None)
        model.config.quantization_config = self.quantization_config.to_dict()
        restore_library_class(model)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True
