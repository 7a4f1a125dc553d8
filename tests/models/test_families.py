import copy
import math
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from testing.families import (
    FAMILIES,
    GRID,
    ONE_EACH,
    REFUSED,
    difference,
    exists,
    inputs,
    make,
    make_refused,
    masked_is_shrunk,
    no_unit_left,
    one_head_left,
    output,
    pruned_again,
    random_masks,
    saved_is_reloaded,
)
from testing.models import pruned
from trimformer.costs.macs import layer_lengths, model_macs, unit_parameters
from trimformer.data.outputs import divergence, find_problem
from trimformer.errors import TrimformerError
from trimformer.importance.second_moments import collect_moments
from trimformer.models import families as table
from trimformer.models import find_layers, find_sublayers, register_family, supported_layers
from trimformer.models.layer_calls import by_position, record_calls
from trimformer.models.masking import frozen
from trimformer.models.sublayer import attention, ffn, producers
from trimformer.refit import finished_sublayer
from trimformer.refit.kept_outputs import fill_memory
from trimformer.refit.reconstruct import reconstruct
from trimformer.refit.walk import walk

# One family of each structure, for the expensive tests.
STRUCTURES = {
    "Bert", "RoFormer", "RobertaPreLayerNorm", "Albert, two groups", "MPNet", "DebertaV2, own positions", "ModernBert",
    "JinaEmbeddingsV3", "T5, gated", "UMT5", "ViT", "Dinov2, gated", "CLIP", "Whisper", "Wav2Vec2, stable", "Gemma2",
    "GPT2", "GPTNeoX", "GPTNeoX, serial", "Phi",
}  # fmt: skip
# Of these, one of each way in which a refit skips what it need not run.
SKIPPING = {"Bert", "Albert, two groups", "ModernBert", "T5, gated", "CLIP", "Gemma2", "GPTNeoX", "Phi"}
# And some that order their sublayers, norms and biases in another way.
OTHER_ORDERS = {"Falcon", "Falcon, one key", "Falcon, serial", "GPTJ", "OPT", "OPT, post-norm", "Olmo2", "Phi3",
                "Qwen3", "StableLm", "StableLm, parallel", "Llama", "DeiT", "Hubert", "XLMRoberta"}  # fmt: skip
# The bare encoder where there is one, as its output shows what a refit changes.
BARE = [(name, "Model" if "Model" in row.heads else row.heads[0]) for name, row in FAMILIES.items()]


@cache
def dense(family: str, head: str, attention: str | None = None) -> PreTrainedModel:
    """Returns a cached model; tests change copies of it."""
    if not exists(family, head):
        pytest.skip("this version of transformers has no such model")
    return make(family, head, attention)


def parameters(models, quick):
    """Returns test parameters; models for which `quick` is false are marked slow."""
    return [
        pytest.param(*model, id="-".join(model), marks=() if quick(*model) else pytest.mark.slow) for model in models
    ]


one_each = pytest.mark.parametrize(("family", "head"), parameters(ONE_EACH, lambda *_: True))
structures = pytest.mark.parametrize(("family", "head"), parameters(BARE, lambda family, _: family in STRUCTURES))


@pytest.mark.parametrize(("family", "head"), parameters(GRID, lambda *model: model in ONE_EACH))
def test_masked_is_shrunk(family, head):
    assert masked_is_shrunk(dense(family, head)) < 1e-5


@one_each
def test_a_model_without_units_is_the_masked_one(family, head):
    assert no_unit_left(dense(family, head)) < 1e-5


@pytest.mark.parametrize("check", [one_head_left, pruned_again])
@pytest.mark.parametrize(("family", "head"), parameters(ONE_EACH, lambda family, _: family in STRUCTURES))
def test_a_shrunk_model_can_be_pruned_again(family, head, check):
    assert check(dense(family, head)) <= 1e-5


@pytest.mark.parametrize(
    ("family", "head"), parameters(GRID, lambda family, head: family in STRUCTURES and (family, head) in ONE_EACH)
)
def test_a_reloaded_model_computes_exactly_the_same(family, head):
    assert saved_is_reloaded(dense(family, head)) == 0


@structures
def test_a_copy_of_a_shrunk_model_is_independent(family, head):
    model = dense(family, head)
    masks = random_masks(model)
    masks[0][:] = 0
    student, batch = pruned(model, masks), inputs(model)
    expected = output(student, batch)
    other = copy.deepcopy(student)
    assert difference(output(other, batch), expected) == 0
    with torch.no_grad():
        for sublayer in find_sublayers(other):
            sublayer.projection.weight.mul_(2)
    assert difference(output(other, batch), expected) > 1e-5
    assert difference(output(student, batch), expected) == 0


@one_each
def test_layers_are_found_in_execution_order(family, head):
    """Compares each tower by itself, as models differ in which tower runs first."""
    model = dense(family, head)
    layers, ran = find_layers(model), []
    handles = [layer.register_forward_pre_hook(lambda layer, _: ran.append(layer)) for layer in layers]
    output(model, inputs(model))
    for handle in handles:
        handle.remove()
    owner = {child: parent for parent in model.modules() for child in parent.children()}
    for tower in {owner[layer] for layer in layers}:
        expected = [layer for layer in layers if owner[layer] is tower]
        assert [layer for layer in dict.fromkeys(ran) if owner[layer] is tower] == expected
    calls = {layer: ran.count(layer) for layer in layers}
    assert all(calls[s.module] == s.calls_per_pass for s in find_sublayers(model))


@structures
def test_the_walk_sees_the_inputs_of_the_students_own_forward(family, head):
    """The input of each projection equals that in the student's forward, after the sublayers below were changed."""
    model = dense(family, head)
    batch, masks = inputs(model, 9), random_masks(model)
    masks[0][:] = 0
    student = pruned(model, masks)
    calls = record_calls(model, batch)
    for step in walk(model, student, [batch]):
        inputs_seen = []
        projection = step.sublayer.projection
        handle = projection.register_forward_pre_hook(lambda _, args, seen=inputs_seen: seen.append(args[0]))
        output(student, batch)
        handle.remove()
        source = find_sublayers(model)[step.index].module
        masks = [call.mask for call in calls if call.layer is source]
        total = sum(by_position(x, mask)[mask].double().sum(0) for x, mask in zip(inputs_seen, masks, strict=True))
        torch.testing.assert_close(step.fit.x + step.held_out.x, total, atol=1e-3, rtol=1e-4)
        projection.weight.mul_(1.2)


def samples_of(batch):
    """Splits a batch into its samples without padding, as they are encoded, and as batches of one."""
    features = []
    for i in range(len(batch["index"])):
        sample = {key: value[i] for key, value in batch.items() if key != "index"}
        mask = sample.get("attention_mask")
        if mask is not None:
            longest = int(mask.sum(-1).max())
            texts_or_sounds = {k: v for k, v in sample.items() if k == "bbox" or v.shape[-1:] == mask.shape[-1:]}
            sample |= {k: v[:longest] if k == "bbox" else v[..., :longest] for k, v in texts_or_sounds.items()}
        elif sample.get("input_values", torch.ones(1, 1)).dim() == 1:  # sounds end in zeros where there is no mask
            sample["input_values"] = sample["input_values"][: int(sample["input_values"].nonzero().max()) + 1]
        features.append({key: value.tolist() if key == "input_ids" else value for key, value in sample.items()})
    alone = [{key: torch.as_tensor(value).unsqueeze(0) for key, value in f.items()} for f in features]
    return features, [{**sample, "index": torch.arange(1)} for sample in alone]


def counted_macs(model, batch):
    """Returns the MACs of the layers for a batch, as torch counts them."""
    counted, hidden = 0, None
    with frozen(model):
        for call in record_calls(model, batch):
            with FlopCounterMode(display=False) as counter:
                hidden = call(hidden if call.first_hidden is None else call.first_hidden)
            counted += counter.get_total_flops() / 2
    return counted


@one_each
def test_macs_match_those_that_torch_counts(family, head):
    model = dense(family, head, "eager")  # torch does not count SDPA
    batch, sublayers = inputs(model), find_sublayers(model)
    features, alone = samples_of(batch)
    mask = batch.get("attention_mask")
    shortest = 1 if mask is None else int(mask.flatten(1).sum(1).argmin())
    for sample, own_batch in ((features[i], alone[i]) for i in (0, shortest)):  # the first one is the longest
        length = own_batch["input_ids"].shape[-1] if "input_ids" in own_batch else 0
        # The padded batch shows how the model is called; what is counted is this sample.
        positions = layer_lengths(model, sublayers, batch, [sample], length)
        assert counted_macs(model, own_batch) == pytest.approx(model_macs(sublayers, positions), rel=1e-12)


@pytest.mark.parametrize("family", ["CLIP", "Siglip", "ChineseCLIP"])
def test_images_cost_the_same_beside_texts_of_any_length(family):
    model, costs = dense(family, "Model"), []
    for length in (15, 16, 17, 18):  # an image has 16 or 17 positions
        batch = inputs(model, length=length)
        features = [{"input_ids": [0] * length}]
        costs.append(layer_lengths(model, find_sublayers(model), batch, features, 5.0))
    assert costs[0] == costs[1] == costs[2] == costs[3]
    assert {p.length for p in costs[0]} == {5.0, 17.0 if family != "Siglip" else 16.0}


@pytest.mark.parametrize("family", ["Wav2Vec2", "Wav2Vec2, stable", "SEW"])
def test_sounds_cost_the_mean_of_their_frames_whatever_they_are_padded_to(family):
    model = dense(family, "ForSequenceClassification")
    sublayers = find_sublayers(model)
    features = [{"input_values": torch.ones(length)} for length in (150, 300, 450, *range(400, 440))]

    def lengths(batch, features):
        return [p.length for p in layer_lengths(model, sublayers, batch, features, 1)]

    single = [lengths(inputs(model, 2, sound=len(f["input_values"])), [f])[0] for f in features]
    for sound in (450, 2000):  # padded to the longest, and by far
        mean = lengths(inputs(model, 4, sound=sound), features)
        assert mean == pytest.approx([sum(single) / len(single)] * len(mean), abs=0.5)
    with_click = [*features, {"input_values": torch.ones(3)}]  # too short for the convolutions
    assert lengths(inputs(model, 4, sound=450), with_click) == pytest.approx(mean, abs=1)


def test_attention_of_multiple_choice_costs_one_square_for_each_choice():
    model = dense("Bert", "ForMultipleChoice")
    sublayers = find_sublayers(model)

    def macs(choices):
        batch = {key: value[:, :1].repeat(1, choices, 1) for key, value in inputs(model).items() if key != "index"}
        features = [{"input_ids": [[0] * 12] * choices}] * 2
        batch["index"] = torch.arange(5)
        return model_macs(sublayers, layer_lengths(model, sublayers, batch, features, 7.5))

    assert macs(1) == model_macs(sublayers, 7.5)
    assert macs(4) == 4 * macs(1)


def norms_of_heads(model):
    """Counts the parameters of norms that have weights per head, which are too few to be counted as a unit's."""
    entries = {entry for s in find_sublayers(model) for entry in s.head_entries}
    return sum(p.numel() for module, _ in entries for p in module.parameters())


@structures
def test_unit_parameters_match_those_removed(family, head):
    model = dense(family, head)
    sublayers = find_sublayers(model)
    empty = pruned(model, [torch.zeros(s.num_units) for s in sublayers])
    total = [sum(p.numel() for p in m.parameters()) - norms_of_heads(m) for m in (model, empty)]
    gone = total[0] - total[1]
    assert gone == sum(s.num_units * unit_parameters(s) for s in sublayers)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        pytest.param(*model, marks=() if model[0] in SKIPPING else pytest.mark.slow)
        for model in ONE_EACH
        if model[0] in {*STRUCTURES, *OTHER_ORDERS}
    ],
)
def test_a_refit_gives_the_same_weights_however_little_runs(family, head, monkeypatch):
    """Which attention modules are skipped is tested in tests/refit/test_finished_sublayer.py."""
    model = dense(family, head)
    sublayers, masks = find_sublayers(model), random_masks(model, share=0.5)
    batches = [inputs(model, 9, seed=seed) for seed in (1, 2)]
    kept = fill_memory(sublayers, [1] * len(sublayers), math.inf)
    outputs = [m.outputs for m in collect_moments(model, batches, keep_outputs=kept)]
    assert [len(known) for known in outputs] == [len(batches) * (i in kept) for i in range(len(sublayers))]
    of_ffns = [known if s.kind == "ffn" else [] for known, s in zip(outputs, sublayers, strict=True)]

    def refitted(teacher_outputs=()):
        student = pruned(model, masks)
        reconstruct(model, [student], batches, teacher_outputs=teacher_outputs)
        return student.state_dict()

    students = {"known": refitted(outputs), "known FFNs": refitted(of_ffns), "skipped attention": refitted()}
    monkeypatch.setattr(finished_sublayer, "_common_module", lambda layer, _: layer)  # skips none
    for name, tensor in refitted().items():
        for case, student in students.items():
            assert torch.equal(student[name], tensor), (case, name)


@structures
def test_a_refit_brings_the_output_nearer(family, head):
    model = dense(family, head)
    problem, masks = find_problem(model), random_masks(model, share=0.5)
    plain, refitted, fresh = pruned(model, masks), pruned(model, masks), inputs(model, 24, seed=3)
    reconstruct(model, [refitted], [inputs(model, 24, seed=seed) for seed in (1, 2)])
    expected = output(model, fresh)
    before, after = (divergence(output(m, fresh), expected, fresh, problem).mean() for m in (plain, refitted))
    assert after < before


@pytest.mark.parametrize("layer", REFUSED)
def test_a_layer_that_cannot_be_pruned_is_rejected_with_the_reason(layer):
    try:
        model = make_refused(layer)
    except AttributeError:
        pytest.skip("this version of transformers has no such model")
    with pytest.raises(TrimformerError) as caught:
        find_sublayers(model)
    assert str(caught.value) == f"layers of class {layer} cannot be pruned: {table.REFUSED[layer]}"


@pytest.mark.parametrize(
    ("prefix", "layer", "reason"),
    [
        ("GptOss", "GptOssDecoderLayer", "it is a mixture of experts"),
        ("GraniteMoe", "GraniteMoeDecoderLayer", "it is a mixture of experts"),
        ("DeepseekV3", "DeepseekV3DecoderLayer", "it is a mixture of experts"),
        ("Mamba2", "Mamba2Block", "it has a recurrence or convolution (Mamba2Block) in place of attention"),
        ("Jamba", "JambaMambaDecoderLayer", "it has a recurrence or convolution (JambaMamba"),
        ("Bamba", "BambaDecoderLayer", "it has a recurrence or convolution (BambaMixer) in place of attention"),
        ("FalconH1", "FalconH1DecoderLayer", "it has a recurrence or convolution (FalconH1Mixer)"),
        ("Qwen3Next", "Qwen3NextDecoderLayer", "it has a recurrence or convolution (Qwen3NextGatedDeltaNet)"),
        ("RecurrentGemma", "RecurrentGemmaDecoderLayer", "it has a recurrence or convolution (RecurrentGemmaRecurrent"),
        ("Rwkv", "RwkvBlock", "it has a recurrence or convolution (RwkvBlock)"),
    ],
)
def test_experts_and_recurrent_layers_are_rejected_by_name(prefix, layer, reason):
    if not hasattr(transformers, f"{prefix}Config"):
        pytest.skip("this version of transformers has no such model")
    with torch.device("meta"):
        model = getattr(transformers, f"{prefix}Model")(getattr(transformers, f"{prefix}Config")())
    with pytest.raises(TrimformerError) as caught:
        find_sublayers(model)
    assert str(caught.value).startswith(f"layers of class {layer} cannot be pruned: {reason}")


def test_every_supported_or_refused_layer_is_tested():
    if not all(exists(*model) for model in ONE_EACH):
        pytest.skip("this version of transformers lacks some of the models")
    assert REFUSED.keys() == table.REFUSED.keys()
    found = {type(layer).__name__ for model in ONE_EACH for layer in find_layers(dense(*model))}
    assert found == set(supported_layers())


class OwnConfig(PreTrainedConfig):
    model_type = "own"
    problem_type = None


class OwnLayer(nn.Module):
    """A layer of no built-in family: fused query, key and value, two heads of size 4, 12 neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mixed, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.neurons = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))

    def forward(self, x, attention_mask):
        q, k, v = self.mixed(self.norm(x)).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (-1, 4)).transpose(1, 2) for t in (q, k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.neurons(x)


class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.embeddings, self.layers = nn.Embedding(60, 8), nn.ModuleList(OwnLayer() for _ in range(2))
        self.post_init()

    def forward(self, input_ids, attention_mask):
        hidden, mask = self.embeddings(input_ids), attention_mask[:, None, None].bool()
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return BaseModelOutput(last_hidden_state=hidden)


def own_family(layer) -> Iterator:
    yield attention(producers(4, layer.mixed, blocks=3), layer.out, 4, entry=layer.norm)
    yield ffn(producers(1, layer.neurons[1]), layer.neurons[3], entry=layer.neurons[0])


@pytest.fixture
def unregister_own_layer():
    yield
    table.LAYERS.pop("OwnLayer", None)


def check_own_family():
    torch.manual_seed(0)
    model = OwnModel(OwnConfig()).eval()
    for layer in model.layers:
        for linear in (layer.mixed, layer.out, layer.neurons[1], layer.neurons[3]):
            nn.init.normal_(linear.weight, std=0.5)
    assert [s.num_units for s in find_sublayers(model)] == [2, 12, 2, 12]
    assert masked_is_shrunk(model) < 1e-5
    assert saved_is_reloaded(model) == 0
    batch = inputs(model, 24)
    masks = random_masks(model)
    plain, refitted = pruned(model, masks), pruned(model, masks)
    reconstruct(model, [refitted], [batch])
    assert difference(output(refitted, batch), output(model, batch)) < difference(
        output(plain, batch), output(model, batch)
    )


@pytest.mark.usefixtures("unregister_own_layer")
def test_a_family_registered_from_outside():
    with pytest.raises(TrimformerError, match=r"OwnModel .* has no layer that can be pruned"):
        find_sublayers(OwnModel(OwnConfig()))
    register_family("OwnLayer", own_family)
    check_own_family()


@pytest.mark.usefixtures("unregister_own_layer")
def test_a_family_of_an_entry_point(monkeypatch):
    point = SimpleNamespace(name="OwnLayer", load=lambda: own_family)
    groups = {"trimformer.families": [point]}
    monkeypatch.setattr(table, "entry_points", lambda group: groups[group])
    table._load_entry_points.cache_clear()
    check_own_family()
