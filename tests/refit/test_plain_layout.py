"""The plain layout: what a family's own config can say, so that nothing of ours is needed to load it."""

import copy
import json

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from testing import families
from tests.commands import error_line, prune
from tests.conftest import make_batch, make_model, pruned
from trimformer import Method, Pruner, TrimformerError
from trimformer.allocation.search_plain import search_plain, smallest_plain
from trimformer.costs.cost_tables import linear_costs
from trimformer.importance.obs import importance_curve
from trimformer.models import find_sublayers
from trimformer.models.plain_config import removable_layers
from trimformer.refit.plain_layout import make_plain, try_plain_layout

REFUSED = {"Albert", "DINOv3ViT", "Dinov2", "Dinov2WithRegisters", "Esm", "Pixio", "SiglipVision", "Siglip2Vision"}
TOWERS = {"AltCLIP", "ChineseCLIP", "CLIP", "MetaClip2", "Siglip", "Siglip2"}

KINDS = [(family, head) for family, head in families.ONE_EACH if family.split(",")[0] not in REFUSED | TOWERS]
PRE_NORM = ["MegatronBert", "ViT", "T5", "Llama", "Qwen2", "GPT2", "GPTNeoX", "Whisper"]


def emptied(model, layer):
    """A copy with half of the neurons everywhere, and no unit in one layer."""
    masks = []
    for s in find_sublayers(model):
        mask = torch.ones(s.num_units)
        if s.kind == "ffn":
            mask[s.num_units // 2 :] = 0
        masks.append(mask * (s.layer != layer))
    return pruned(model, masks)


def samples(model):
    batch = dict(families.inputs(model))
    batch.setdefault("index", torch.arange(len(next(iter(batch.values())))))
    return batch


@pytest.mark.parametrize(("family", "head"), KINDS)
def test_a_plain_model_is_the_one_that_its_config_makes(family, head, tmp_path):
    model = families.make(family, head)
    batch = samples(model)
    student = emptied(model, 2)
    make_plain(student, model, [batch])
    student.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    loaded = getattr(transformers, type(model).__name__).from_pretrained(tmp_path).eval()
    assert families.difference(families.output(loaded, batch), families.output(student, batch)) < 1e-5
    assert len(find_sublayers(loaded)) == len(find_sublayers(model)) - 2


@pytest.mark.parametrize("family", PRE_NORM)
def test_leaving_out_a_layer_without_units_is_exact_before_norms(family):
    model = families.make(family, families.FAMILIES[family].heads[0])
    batch, student = samples(model), emptied(model, 1)
    before = families.output(student, batch)
    make_plain(student, model, [batch])
    assert families.difference(families.output(student, batch), before) < 1e-5


def test_the_norm_below_takes_over_what_a_layer_without_units_did():
    model, batch = make_model(), make_batch(64)
    student = emptied(model, 1)
    before, without = families.output(student, batch), copy.deepcopy(student)
    make_plain(student, model, [batch])
    del without.bert.encoder.layer[1]
    errors = [families.difference(families.output(m, batch), before) for m in (student, without)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("family", sorted(REFUSED | TOWERS))
def test_what_a_config_cannot_say_is_told_before_the_long_work(family):
    model = families.make(family, families.FAMILIES[family].heads[0])
    with pytest.raises(TrimformerError, match=r"config .* use the layout 'free'"):
        try_plain_layout(model, samples(model))


def test_scales_that_depend_on_the_index_of_a_layer_are_told_before_the_long_work():
    plain = families.make("GPT2", "Model")
    plain.config.scale_attn_by_inverse_layer_idx = True
    model = type(plain)(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    with pytest.raises(TrimformerError, match=r"config .* use the layout 'free'"):
        try_plain_layout(model, samples(model))


def test_a_model_of_several_widths_is_refused():
    model = make_model()
    masks = [torch.ones(s.num_units) for s in find_sublayers(model)]
    masks[1][0] = 0
    with pytest.raises(TrimformerError, match="differ in size"):
        try_plain_layout(pruned(model, masks), make_batch())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), constraint=st.floats(0.3, 1.0), family=st.sampled_from(["Bert", "Llama"]))
def test_the_search_equals_trying_everything(seed, constraint, family):
    model = families.make(family, families.FAMILIES[family].heads[0])
    sublayers = find_sublayers(model)
    generator = torch.Generator().manual_seed(seed)
    curves = [importance_curve(torch.rand(s.num_units, generator=generator)) for s in sublayers]
    costs = linear_costs(sublayers, "mac", 8)
    found = search_plain(sublayers, curves, costs, constraint, 8)
    assert costs.of(found) <= constraint * costs.dense * (1 + 1e-9)
    full = sublayers[0].num_units

    def loss(units):
        return sum(float(curve.error[k]) for curve, k in zip(curves, units, strict=True))

    price = {layer: loss_of_layer(sublayers, curves, layer) for layer in removable_layers(sublayers)}
    order = sorted(price, key=lambda layer: price[layer])
    tried = [
        [0 if s.layer in order[:gone] else heads if s.kind == "attention" else width for s in sublayers]
        for gone in range(len(order) + 1)
        for heads in (range(1, full + 1) if family == "Llama" else [full])
        for width in (8, 16, 24, 32, 40)
    ]
    assert loss(found) == pytest.approx(
        min(loss(u) for u in tried if costs.of(u) <= constraint * costs.dense * (1 + 1e-12))
    )
    assert smallest_plain(sublayers, costs, 8) == pytest.approx(min(costs.of(u) for u in tried) / costs.dense)


def loss_of_layer(sublayers, curves, layer):
    return sum(float(curve.error[0]) for s, curve in zip(sublayers, curves, strict=True) if s.layer == layer)


def test_a_pruner_makes_plain_models():
    model, batches = make_model(), [make_batch(16, seed=seed) | {"index": torch.arange(16)} for seed in range(2)]
    pruner = Pruner(model, batches, Method(allocation="plain"), neuron_multiple=8)
    found = pruner(linear_costs(find_sublayers(model), "mac", 8), 0.6)
    assert len({s.num_units for s in find_sublayers(found.model) if s.kind == "ffn"}) == 1
    assert not hasattr(found.model.config, "quantization_config")


def test_the_command_line_writes_a_directory_that_needs_nothing_of_ours(model_dir, data, tmp_path):
    words = ("--layout", "plain", "--constraint", "0.6", "--neuron-multiple", "8")
    assert prune(model_dir, data, tmp_path / "out", *words) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not {"quantization_config", "transformers_weights"} & set(config)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["budget"]["kept"] <= 0.6
    assert results["sizes"]["pruned"]["macs"] <= 0.6 * results["sizes"]["dense"]["macs"]


@pytest.mark.parametrize("flag", ["--layout", "--allocation"])
def test_a_plain_directory_needs_no_code_beside_it_and_says_so_at_once(flag, tmp_path, capsys):
    assert prune(tmp_path / "none", tmp_path / "none", tmp_path / "out", flag, "plain", "--standalone") == 2
    assert "leave out --standalone" in error_line(capsys.readouterr().err)


def test_a_budget_beyond_reach_names_the_smallest(model_dir, data, tmp_path, capsys):
    assert prune(model_dir, data, tmp_path / "out", "--layout", "plain", "--constraint", "0.01") == 2
    assert "smallest reachable is" in error_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
