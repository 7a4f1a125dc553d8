"""Whether a model has the tokens that the samples are made of."""

from collections.abc import Iterator, Sequence

from torch import nn
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError
from trimformer.models.layer_calls import Batch


def check_token_ids(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Raises:
    TrimformerError: the samples hold ids that the model has no embedding of.
    """
    for key, what, table in _tables(model):
        found = [batch[key] for batch in batches if key in batch and batch[key].numel()]
        least, largest = (min((int(t.min()) for t in found), default=0), max((int(t.max()) for t in found), default=0))
        if largest >= table.num_embeddings:
            raise TrimformerError(
                f"the samples hold {what} id {largest}, but the model has only {table.num_embeddings} {what}s; is the "
                "tokenizer another model's?"
            )
        if least < 0:
            raise TrimformerError(f"the samples hold {what} id {least}; ids begin at 0")


def _tables(model: PreTrainedModel) -> Iterator[tuple[str, str, nn.Embedding]]:
    """Input, what it is, and its embeddings."""
    tower = getattr(model, "text_model", model)  # a model of two towers has no embeddings of its own
    try:
        tokens = tower.get_input_embeddings()
    except NotImplementedError:  # of images and sounds
        return
    if isinstance(tokens, nn.Embedding):
        yield "input_ids", "token", tokens
    for name, module in tower.named_modules():
        if name.endswith("token_type_embeddings") and isinstance(module, nn.Embedding):
            yield "token_type_ids", "token type", module
