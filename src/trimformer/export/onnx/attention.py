"""Exports attention as one ONNX node instead of a dozen.

The node reads and writes [batch, length, heads * size], the layout of the projections, so the graph needs no
transposes. Each node has its own number of heads, which pruned layers need.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, bidirectional_mask_function, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "trimformer_onnx"

OPSET = 23  # the first with an attention operator

# Arguments of attention functions that the node has no input for.
_UNSUPPORTED = ("s_aux",)


@contextmanager
def one_node(model: PreTrainedModel, opset: int) -> Iterator[None]:
    """Makes Transformers' attention interface trace as one node, within the context.

    Args:
        model: to be traced; restored afterwards.
        opset: ONNX operator set; before 23 the node is ONNX Runtime's MultiHeadAttention.
    """
    ALL_ATTENTION_FUNCTIONS.register(NAME, partial(_attend, opset < OPSET))
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)
    parts = [m for m in model.modules() if isinstance(m, PreTrainedModel)]
    configs: dict[int, Any] = {
        id(m.config): m.config for m in parts if m._supports_attention_backend or m._supports_sdpa
    }
    before = {key: config._attn_implementation_internal for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation_internal = NAME
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]


def _mask(
    *,
    q_length: int,
    mask_function: Any,
    attention_mask: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    **kwargs: Any,
) -> Tensor | None:
    """Builds the additive attention mask [batch, 1, length, length]: 0 at visible tokens."""
    if mask_function is bidirectional_mask_function and kwargs.get("local_size") is None:
        if attention_mask is None:
            return None
        masked = (1 - attention_mask.to(dtype)) * torch.finfo(dtype).min
        return masked[:, None, None, :].expand(-1, 1, q_length, -1)
    kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    visible = sdpa_mask(q_length=q_length, mask_function=mask_function, attention_mask=attention_mask, **kwargs)
    return None if visible is None else torch.where(visible, 0.0, torch.finfo(dtype).min)


def _attend(
    before_opset_23: bool,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Computes attention as one node, with the signature of Transformers' attention functions.

    Query, key and value are [batch, heads, length, size]; the output is [batch, length, heads, size].
    """
    heads, size = query.shape[1], query.shape[3]
    if heads == 0:
        return query.transpose(1, 2), None
    softcap = kwargs.get("softcap") or 0.0
    is_unsupported = value.shape[3] != size or (before_opset_23 and (key.shape[1] != heads or softcap))
    if is_unsupported or any(kwargs.get(name) is not None for name in _UNSUPPORTED):
        raise NotImplementedError(f"the attention of {type(module).__name__} does not fit the ONNX operator")
    scores = _additive_mask(attention_mask, kwargs.get("position_bias"), query, key)
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    causal = causal and attention_mask is None and query.shape[2] > 1
    attributes: dict[str, Any] = {"scale": size**-0.5 if scaling is None else float(scaling)}
    inputs: list[Tensor | None] = [t.transpose(1, 2).reshape(t.shape[0], t.shape[2], -1) for t in (query, key, value)]
    if before_opset_23:
        name = "com.microsoft::MultiHeadAttention"
        attributes |= {"num_heads": heads} | ({"unidirectional": 1} if causal else {})
        inputs += [None, None, scores]
    else:
        name = "ai.onnx::Attention"
        attributes |= {"q_num_heads": heads, "kv_num_heads": key.shape[1]} | ({"is_causal": 1} if causal else {})
        attributes |= {"softcap": float(softcap)} if softcap else {}
        inputs.append(scores)
    shape = (query.shape[0], query.shape[2], heads * size)
    output = torch.onnx.ops.symbolic(name, inputs, attributes, dtype=query.dtype, shape=shape)
    return output.view(query.shape[0], query.shape[2], heads, size), None


def _additive_mask(mask: Tensor | None, positions: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """Adds mask and position bias [batch, heads or 1, queries, keys]; None if there is neither."""
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, torch.finfo(query.dtype).min)
    parts = [part for part in (mask, positions) if part is not None]
    return sum(parts[1:], parts[0]).expand(-1, -1, query.shape[2], key.shape[2]) if parts else None
