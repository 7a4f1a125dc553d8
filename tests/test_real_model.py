"""MiniLM-L6 on movie reviews, end to end: the one test whose numbers mean something.

The model and the data come from the package registry and are cached; see `examples/assets.py`.
"""

import json

import assets
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

import trimformer
from tests.commands import outputs, write_jsonl
from trimformer.allocation.allocations import select_masks
from trimformer.checkpoints.save_load import load
from trimformer.cli.main import main
from trimformer.costs.cost_tables import linear_costs
from trimformer.data.batches import make_batches, mean_length
from trimformer.data.files import read_rows
from trimformer.data.tasks import infer_task
from trimformer.export.onnx.export import export_onnx, quantize
from trimformer.importance.criteria import CRITERIA
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import model_inputs
from trimformer.options.execution import ExecutionOptions

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real model")]  # its fixtures are made once

CONSTRAINT = 0.5
SPLITS = ("train", "validation")
HEADS, NEURONS, HEAD_SIZE, HIDDEN = 12, 1536, 32, 384


@pytest.fixture(scope="session")
def checkpoint():
    """Trained for half a minute only, which is enough for scores far from chance."""
    return assets.finetuned(
        "movie-reviews-quick", assets.movie_reviews(), epochs=1, label_column="label", max_steps="60"
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """256 sentences to calibrate on and 1,000 to score on."""
    folder, reviews = tmp_path_factory.mktemp("reviews"), assets.movie_reviews()
    write_jsonl(folder / "train.jsonl", read_rows(reviews / "train.jsonl")[:256])
    write_jsonl(folder / "validation.jsonl", read_rows(reviews / "validation.jsonl")[:1000])
    return folder


@pytest.fixture(scope="session")
def pruned(checkpoint, data, tmp_path_factory):
    """Output directories of both methods."""
    folder = tmp_path_factory.mktemp("pruned")
    for method in ("obs", "kwon2022"):
        words = ["prune", checkpoint, "--data", data, "--label-column", "label", "--num-samples", "256"]
        words += ["--constraint", CONSTRAINT, "--method", method, "--output", folder / method]
        assert main([str(word) for word in words]) == 0
    return folder


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_obs_loses_little_and_less_than_the_papers_method(pruned):
    obs, kwon = results(pruned / "obs"), results(pruned / "kwon2022")
    dense = obs["scores"]["dense"]["accuracy"]
    assert dense > 0.7
    assert obs["scores"]["pruned"]["accuracy"] >= dense - 0.02
    assert obs["scores"]["divergence"] < kwon["scores"]["divergence"]
    for found in (obs, kwon):
        assert 0.49 < found["sizes"]["pruned"]["macs"] / found["sizes"]["dense"]["macs"] <= CONSTRAINT


@pytest.mark.parametrize("method", ["obs", "kwon2022"])
def test_the_directory_is_smaller_and_reloads_exactly(pruned, checkpoint, method):
    sizes = [(path / "model.safetensors").stat().st_size for path in (pruned / method, checkpoint)]
    assert sizes[0] < 0.8 * sizes[1]
    model = AutoModelForSequenceClassification.from_pretrained(pruned / method)
    tensors = load_file(pruned / method / "model.safetensors")
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    tokens = AutoTokenizer.from_pretrained(pruned / method)(["a fine film", "dull"], padding=True, return_tensors="pt")
    again = AutoModelForSequenceClassification.from_pretrained(pruned / method)
    assert (outputs(model, dict(tokens))[0] - outputs(again, dict(tokens))[0]).abs().max() == 0.0


def test_the_pruned_model_tells_good_from_bad(pruned):
    classify = pipeline("text-classification", model=str(pruned / "obs"))
    good, bad = classify(["a wonderful, moving and funny film", "a dull, tedious and badly acted mess"])
    assert (good["label"], bad["label"]) == ("LABEL_1", "LABEL_0")


# The paper's formulas, literally: sample by sample, sum by sum.


def literal_grads(model, batches):
    """Per layer, the gradients of the loss with respect to the head mask and the neuron mask, [samples, units]."""
    layers, grads = model.bert.encoder.layer, {"heads": [], "neurons": []}
    for batch in batches:
        masks = {"heads": torch.ones(6, HEADS), "neurons": torch.ones(6, NEURONS)}
        handles = []
        for i, layer in enumerate(layers):
            places = (layer.attention.output.dense, "heads", HEAD_SIZE), (layer.output.dense, "neurons", 1)
            for linear, kind, size in places:
                masks[kind].requires_grad_()

                def scale(_, inputs, mask=masks[kind], i=i, size=size):
                    return (inputs[0] * mask[i].double().repeat_interleave(size),)

                handles.append(linear.register_forward_pre_hook(scale))
        model(**model_inputs(batch), labels=batch["labels"]).loss.backward()
        for kind, mask in masks.items():
            grads[kind].append(mask.grad)
        for handle in handles:
            handle.remove()
    return {kind: torch.stack(samples, dim=1).double() for kind, samples in grads.items()}


def literal_search(head_importance, neuron_importance, length):
    """Algorithm 1: for every number of heads, as many neurons as the budget still allows."""
    head_cost = 4 * length * HIDDEN * HEAD_SIZE + 2 * length**2 * HEAD_SIZE
    neuron_cost = 2 * length * HIDDEN
    budget = CONSTRAINT * 6 * (HEADS * head_cost + NEURONS * neuron_cost)
    heads = head_importance.flatten().argsort(descending=True)
    neurons = neuron_importance.flatten().argsort(descending=True)
    best = (-1.0, 0, 0)
    for n in range(len(heads) + 1):
        left = budget - n * head_cost
        if left >= 0:
            m = min(int(left / neuron_cost), len(neurons))
            kept = head_importance.flatten()[heads[:n]].sum() + neuron_importance.flatten()[neurons[:m]].sum()
            best = max(best, (float(kept), n, m))
    masks = torch.zeros(6 * HEADS), torch.zeros(6 * NEURONS)
    masks[0][heads[: best[1]]], masks[1][neurons[: best[2]]] = 1, 1
    return masks[0].view(6, HEADS), masks[1].view(6, NEURONS)


def literal_rearrange(mask, grads):
    """Section 4.2: each kept unit, least important first, joins the pruned, and the best of them comes back."""
    mask, importance = mask.clone(), grads.square().sum(0)
    if mask.all():
        return mask
    for unit in sorted(mask.nonzero().flatten().tolist(), key=lambda i: float(importance[i])):
        mask[unit] = 0
        gone = (mask == 0).nonzero().flatten()
        total = grads[:, gone].sum(1, keepdim=True)  # [samples, 1]
        loss = (total - grads[:, gone]).square().sum(0)
        mask[gone[loss.argmin()]] = 1
    return mask


def test_masks_are_those_of_the_formulas(checkpoint, data):
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).double()
    tokenizer, rows = AutoTokenizer.from_pretrained(checkpoint), read_rows(data / "train.jsonl")[:64]
    features = infer_task("single_label", model.config, rows, label_column="label").encode(
        rows, tokenizer, model.config
    )
    length = mean_length(features)
    ranking = CRITERIA["fisher"](model, make_batches(features, tokenizer, 16), "labels", ExecutionOptions())
    sublayers = find_sublayers(model)
    costs = linear_costs(sublayers, "mac", length)

    grads = literal_grads(model, make_batches(features, tokenizer, 1))
    importance = {kind: values.square().sum(1) for kind, values in grads.items()}  # [layers, units]
    expected = literal_search(importance["heads"], importance["neurons"], length)
    assert all(0 < mask.mean() < 1 for mask in expected)
    for i, curve in enumerate(ranking.curves):
        kind = ("heads", "neurons")[i % 2]
        torch.testing.assert_close(
            -curve.error.diff().flip(0), importance[kind][i // 2][curve.order], rtol=1e-4, atol=0
        )
    for rearranged in (False, True):
        grads_given = ranking.grads if rearranged else None
        found = select_masks(
            "global", sublayers, ranking.curves, costs, constraint=CONSTRAINT, rearrange_grads=grads_given
        )
        for i, mask in enumerate(found):
            kind = ("heads", "neurons")[i % 2]
            literal = expected[i % 2][i // 2]
            literal = literal_rearrange(literal, grads[kind][i // 2]) if rearranged else literal
            assert torch.equal(mask, literal), (i, rearranged)


def test_files_for_onnx_runtime_give_what_the_model_gives(pruned, data, tmp_path):
    """On a hundred real texts in batches of which one was traced."""
    model, tokenizer = load(pruned / "obs")
    rows = read_rows(data / "validation.jsonl")[:100]
    task = infer_task("single_label", model.config, rows, label_column="label")
    batches = make_batches(task.encode(rows, tokenizer, model.config), tokenizer, 16)
    plain = export_onnx(model, tmp_path / "model.onnx", batches)
    assert plain.difference <= 1e-4
    small = quantize(plain.path, tmp_path / "model_quantized.onnx", model, batches)
    assert small.divergence < 0.01  # KL in nats


def test_sentence_embeddings_stay_close_without_any_labels(data):
    path = assets.minilm()
    model, tokenizer = AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    train, validation = ([{"text": row["sentence"]} for row in read_rows(data / f"{split}.jsonl")] for split in SPLITS)
    found = trimformer.prune(model, tokenizer, train, 0.7, eval_dataset=validation[:100])
    assert found.sizes["pruned"].macs <= 0.7 * found.sizes["dense"].macs
    assert 0 < found.scores.divergence < 0.1  # 1 - cosine
