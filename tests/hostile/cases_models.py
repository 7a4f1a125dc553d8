"""Cases of model directories, masks and look-up tables."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.commands import save_model
from tests.conftest import make_table
from tests.hostile.world import Case, Evil, both, config, ones, saved, text, weights
from trimformer.checkpoints.save_load import load_model
from trimformer.costs.lookup_tables import write_table

EVALUATE = "evaluate model --data rows.jsonl"
PRUNE = "prune model --data rows.jsonl --constraint 0.5 --output out"
MASKS = "evaluate model --data rows.jsonl --masks masks"
LUT = "prune model --data rows.jsonl --constraint 0.5 --metric latency --lut lut --any-lut --output out"

FINETUNE = "finetune --model_name_or_path model --train_file rows.jsonl --do_train --use_cpu --output_dir out"

LAYER = "bert.encoder.layer.1"
SOME = f"{LAYER}.output.dense.weight"


def remove(*names: str) -> Any:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / "model" / name).unlink()

    return spoil


def fill(value: float, name: str = SOME) -> Any:
    return weights(lambda tensors: tensors[name].view(-1)[3:4].fill_(value))


def drop(part: str) -> Any:
    return weights(lambda tensors: [tensors.pop(name) for name in list(tensors) if part in name])


def add(name: str, *shape: int) -> Any:
    return weights(lambda tensors: tensors.update({name: torch.zeros(shape)}))


def cut(keep: int) -> Any:
    def spoil(folder: Path) -> None:
        path = folder / "model" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])

    return spoil


def as_bin(value: Any) -> Any:
    """The weights in a pickle instead."""
    return both(remove("model.safetensors"), saved("model/pytorch_model.bin", value))


def index(**entries: Any) -> Any:
    """An index of shards instead of one file."""
    written = text("model/model.safetensors.index.json", json.dumps(entries))
    return both(remove("model.safetensors"), written)


def tokenizer(**changes: Any) -> Any:
    return config("model/tokenizer_config.json", **changes)


def narrowed(**changes: Any) -> Any:
    """The config of a pruned model, whose widths do not fit."""
    widths = {"quant_method": "trimformer", "heads": [4, 4], "neurons": [40, 40], **changes}
    return config(quantization_config=widths)


def masks(heads: Any, neurons: Any = None) -> Any:
    given = torch.ones(2, 40) if neurons is None else neurons
    return both(saved("masks/head_mask.pt", heads), saved("masks/neuron_mask.pt", given))


def lut(heads: Any = None, metadata: Any = None, **changes: Any) -> Any:
    """Tables that fit the model, spoiled."""

    def spoil(folder: Path) -> None:
        write_table(make_table(load_model(folder / "model")), folder / "lut")
        if heads is not None:
            torch.save(heads, folder / "lut" / "mha_lut.pt")
        path = folder / "lut" / "lut.json"
        if metadata is not None:
            path.write_text(metadata)
        if changes:
            path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


def setting(**changes: Any) -> dict[str, Any]:
    return {"batch_size": 2, "seq_len": 8, "backend": "eager", **changes}


def other(folder: Path) -> None:
    save_model(folder / "other", "tokens", num_hidden_layers=2)


_CONFIGS = {
    "broken": (text("model/config.json", "{"), ["config"]),
    "empty": (text("model/config.json", ""), ["config"]),
    "a list": (text("model/config.json", "[]"), ["config"]),
    "bytes": (text("model/config.json", b"\xff\xfe\x00"), ["config"]),
    "deep": (text("model/config.json", "[" * 100_000), ["config"]),
    "no type": (text("model/config.json", "{}"), ["config", "model_type"]),
    "unknown type": (config(model_type="no-such"), ["config", "no-such"]),
    "type of another": (config(model_type="roberta"), ["roberta", "BertForSequenceClassification"]),
    "no architecture": (config(architectures=None), ["architecture"]),
    "unknown architecture": (config(architectures=["NoSuchModel"]), ["NoSuchModel"]),
    "architecture of code": (config(architectures=["os"]), ["os"]),
    "pretraining": (config(architectures=["BertForPreTraining"]), ["lack"]),
    "all other family": (
        config(model_type="roberta", architectures=["RobertaForSequenceClassification"]), ["lack"]
    ),
    "10^9 layers": (config(num_hidden_layers=10**9), ["num_hidden_layers", "1000000000"]),
    "no layers": (config(num_hidden_layers=0), ["no layer"]),
    "negative layers": (config(num_hidden_layers=-3), ["model"]),
    "text for layers": (config(num_hidden_layers="two"), ["config"]),
    "fewer layers": (config(num_hidden_layers=1), ["layer.1", "knows nothing"]),
    "more layers": (config(num_hidden_layers=3), ["lack", "layer.2"]),
    "fraction of heads": (config(num_attention_heads=1.5), ["config"]),
    "no heads": (config(num_attention_heads=0), ["config"]),
    "heads that do not divide": (config(num_attention_heads=5), ["config"]),
    "other width": (config(intermediate_size=36), ["match", "36"]),
    "negative width": (config(intermediate_size=-40), ["model"]),
    "huge vocabulary": (config(vocab_size=10**12), ["parameters"]),
    "huge head": (config(id2label={str(i): str(i) for i in range(5)}), ["classifier"]),
    "activation": (config(hidden_act="frob"), ["config", "frob"]),
    "problem type": (config(problem_type="frob"), ["problem_type", "frob"]),
    "quantization": (config(quantization_config={"quant_method": "frob"}), ["quantized", "frob"]),
    "quantization without a name": (config(quantization_config={}), ["quantized"]),
    "bitsandbytes": (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}), ["quantized"]
    ),
    "decoder": (config(is_decoder=True), ["decoder"]),
    "chunks": (config(chunk_size_feed_forward=2), ["chunk_size_feed_forward"]),
    "dtype": (config(dtype="float7"), ["'", "model"]),
    "too long widths": (narrowed(heads=[4, 4, 4]), ["widths", "[4, 4, 4]"]),
    "too long neurons": (narrowed(neurons=[40, 40, 40]), ["widths"]),
    "too short widths": (narrowed(heads=[4]), ["widths"]),
    "too wide": (narrowed(heads=[4, 5]), ["widths"]),
    "negative widths": (narrowed(heads=[4, -1]), ["widths"]),
    "widths of fractions": (narrowed(heads=[4, 2.5]), ["widths"]),
    "widths of truths": (narrowed(heads=[4, True]), ["widths"]),
    "widths of texts": (narrowed(heads=["4", "4"]), ["widths"]),
    "no widths": (narrowed(heads=None), ["model"]),
    "a huge width": (narrowed(heads=[4, 10**30]), ["widths"]),
    "too many kept heads": (narrowed(kept_heads=[[0, 1, 2, 3]] * 3), ["kept_heads"]),
    "kept heads twice": (narrowed(kept_heads=[[0, 0, 1, 2], None]), ["kept_heads"]),
    "kept heads beyond": (narrowed(kept_heads=[[0, 1, 2, 9], None]), ["kept_heads"]),
    "kept heads of texts": (narrowed(kept_heads="0123"), ["kept_heads"]),
    "narrower than the weights": (narrowed(heads=[2, 4]), ["match"]),
}  # fmt: skip
_WEIGHTS = {
    "none": (remove("model.safetensors"), ["no weights"]),
    "empty": (cut(0), ["weights"]),
    "cut in the header": (cut(40), ["weights"]),
    "cut in the values": (cut(8000), ["weights"]),
    "noise": (text("model/model.safetensors", bytes(range(256)) * 9), ["weights"]),
    "a huge header": (text("model/model.safetensors", b"\xff" * 8 + b"{}"), ["weights"]),
    "NaN": (fill(torch.nan), [SOME, "NaN"]),
    "infinite": (fill(torch.inf), [SOME, "infinite"]),
    "negative infinite": (fill(-torch.inf), [SOME, "infinite"]),
    "NaN in the head": (fill(torch.nan, "classifier.weight"), ["classifier.weight", "NaN"]),
    "NaN in the embeddings": (fill(torch.nan, "bert.embeddings.word_embeddings.weight"), ["word_embeddings", "NaN"]),
    "no head": (drop("classifier"), ["lack", "classifier"]),
    "a layer less": (drop("layer.1."), ["lack", "layer.1"]),
    "a layer more": (add("bert.encoder.layer.2.output.dense.weight", 24, 40), ["layer.2", "knows nothing"]),
    "a part more": (add("bert.encoder.layer.0.gate.weight", 24), ["layer.0.gate", "knows nothing"]),
    "another shape": (
        weights(lambda tensors: tensors.update({SOME: torch.zeros(24, 41)})), ["match", "41"]
    ),
    "an evil pickle": (as_bin(Evil()), ["weights"]),
    "a pickle of a list": (as_bin([1, 2]), ["weights"]),
    "a pickle of noise": (
        both(remove("model.safetensors"), text("model/pytorch_model.bin", b"\x80\x04x")), ["weights"]
    ),
    "an index that is broken": (
        both(remove("model.safetensors"), text("model/model.safetensors.index.json", "{")), ["index.json"]
    ),
    "an index of nothing": (index(), ["index.json"]),
    "a missing shard": (index(weight_map={SOME: "model-1.safetensors"}, metadata={}), ["model-1.safetensors", "lacks"]),
    "a shard elsewhere": (index(weight_map={SOME: "../../x.safetensors"}, metadata={}), ["../../x.safetensors"]),
}  # fmt: skip
_TOKENIZERS = {
    "none": (remove("tokenizer.json", "tokenizer_config.json"), ["tokenizer"]),
    "broken": (text("model/tokenizer.json", "{"), ["tokenizer"]),
    "noise": (text("model/tokenizer.json", b"\xff\xfe"), ["tokenizer"]),
    "no padding": (tokenizer(pad_token=None), ["padding token"]),
    "negative limit": (tokenizer(model_max_length=-5), ["model_max_length", "-5"]),
    "a limit of nothing": (tokenizer(model_max_length=0), ["model_max_length"]),
    "a limit that is a text": (tokenizer(model_max_length="many"), ["model_max_length", "many"]),
    "a limit of two": (tokenizer(model_max_length=2), ["maximum length"]),
    "another's": (config(vocab_size=20), ["match"]),
}
_MASKS = {
    "no folder": (lambda folder: None, ["head_mask.pt", "does not exist"]),
    "one file": (saved("masks/head_mask.pt", ones()), ["neuron_mask.pt", "does not exist"]),
    "another shape": (masks(torch.ones(2, 5)), ["(2, 5)", "(2, 4)"]),
    "one dimension": (masks(torch.ones(8)), ["(8,)"]),
    "a list": (masks([[1, 1], [1, 1]]), ["head_mask.pt"]),
    "NaN": (masks(ones(torch.nan)), ["head_mask.pt", "finite"]),
    "infinite": (masks(ones(torch.inf)), ["head_mask.pt", "finite"]),
    "complex": (masks(ones(1j, dtype=torch.complex64)), ["head_mask.pt", "finite"]),
    "sparse": (masks(ones().to_sparse()), ["head_mask.pt", "finite"]),
    "on the meta device": (masks(ones().to("meta")), ["head_mask.pt", "finite"]),
    "sparse neurons": (masks(ones(), torch.ones(2, 40).to_sparse()), ["neuron_mask.pt", "finite"]),
    "NaN neurons": (masks(ones(), ones(torch.nan, (2, 40))), ["neuron_mask.pt", "finite"]),
    "evil": (masks(Evil()), ["head_mask.pt", "plain"]),
    "noise": (both(masks(ones()), text("masks/head_mask.pt", b"\x80\x04noise")), ["head_mask.pt", "plain"]),
    "empty": (both(masks(ones()), text("masks/head_mask.pt", b"")), ["head_mask.pt"]),
}
_LUTS = {
    "none": (lambda folder: None, ["mha_lut.pt", "does not exist"]),
    "evil": (lut(Evil()), ["mha_lut.pt", "plain"]),
    "texts": (lut(["a", "b"]), ["mha_lut.pt", "plain"]),
    "an empty list": (lut([]), ["mha_lut.pt"]),
    "two dimensions": (lut(torch.ones(2, 2)), ["mha_lut.pt", "shape"]),
    "NaN": (lut(torch.tensor([1.0, torch.nan, 2, 3])), ["mha_lut.pt", "positive"]),
    "zeros": (lut(torch.zeros(4)), ["mha_lut.pt", "positive"]),
    "negative": (lut(-torch.ones(4)), ["mha_lut.pt", "positive"]),
    "too few": (lut(torch.ones(3)), ["mha_lut.pt", "3 entries"]),
    "overflow": (lut([10**400, 1, 1, 1]), ["mha_lut.pt"]),
    "broken metadata": (lut(metadata="{"), ["lut.json"]),
    "metadata of a list": (lut(metadata="[]"), ["lut.json"]),
    "deep metadata": (lut(metadata="[" * 100_000), ["lut.json"]),
    "a text for a latency": (lut(fixed_ms="fast"), ["lut.json"]),
    "an overflow": (lut(fixed_ms=10**400), ["lut.json"]),
    "an infinite latency": (lut(fixed_ms=float("inf")), ["lut.json"]),
    "a text for a batch": (lut(setting=setting(batch_size="two")), ["lut.json", "batch_size"]),
    "a batch of nothing": (lut(setting=setting(batch_size=0)), ["lut.json", "batch_size"]),
    "a length of nothing": (lut(setting=setting(seq_len=-1)), ["lut.json", "seq_len"]),
    "an unknown backend": (lut(setting=setting(backend="frob")), ["lut.json", "frob"]),
    "a backend without files": (lut(setting=setting(backend="llama.cpp")), ["lut.json", "llama.cpp"]),
    "a setting that is a list": (lut(setting=[1]), ["lut.json"]),
    "measured texts": (lut(measured={"attention": [{"units": "x"}], "ffn": []}), ["lut.json"]),
}
_FINETUNE = {
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), ["tokenizer"]),
    "NaN": (fill(torch.nan), [SOME, "NaN"]),
    "fewer layers": (config(num_hidden_layers=1), ["layer.1", "knows nothing"]),
    "more layers": (config(num_hidden_layers=3), ["lack", "layer.2"]),
    "10^9 layers": (config(num_hidden_layers=10**9), ["num_hidden_layers"]),
    "quantized": (config(quantization_config={"quant_method": "frob"}), ["frob"]),
    "an evil pickle": (as_bin(Evil()), ["weights"]),
    "a broken config": (text("model/config.json", "{"), ["'model'"]),
    "a negative limit": (tokenizer(model_max_length=-5), ["model_max_length"]),
}


def _overflow(tensors: dict[str, torch.Tensor]) -> None:
    """Finite weights whose products are not."""
    for name, value in tensors.items():
        if name.endswith(("output.dense.weight", "classifier.weight")):
            value *= 1e38


CASES = {
    "export, weights that overflow": Case(
        "export model --output out", ["outputs of Bert", "not finite", "overflow"], weights(_overflow)
    ),
    "export, weights that overflow on data": Case(
        "export model --data rows.jsonl --int8 --output out", ["outputs of Bert", "not finite"], weights(_overflow)
    ),
    **{f"config {name}": Case(EVALUATE, says, spoil) for name, (spoil, says) in _CONFIGS.items()},
    **{f"weights {name}": Case(EVALUATE, says, spoil) for name, (spoil, says) in _WEIGHTS.items()},
    **{f"prune, weights {name}": Case(PRUNE, says, spoil) for name, (spoil, says) in _WEIGHTS.items()},
    **{f"tokenizer {name}": Case(EVALUATE, says, spoil) for name, (spoil, says) in _TOKENIZERS.items()},
    **{f"masks {name}": Case(MASKS, says, spoil) for name, (spoil, says) in _MASKS.items()},
    **{f"tables {name}": Case(LUT, says, spoil) for name, (spoil, says) in _LUTS.items()},
    **{f"finetune {name}": Case(FINETUNE, says, spoil) for name, (spoil, says) in _FINETUNE.items()},
    "reference of another head": Case(
        "evaluate model --data rows.jsonl --reference other", ["other", "differs"], other
    ),
}
