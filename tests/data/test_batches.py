import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_tokenizer
from trimformer.data.batches import collate, count_samples, make_batches, mean_length, sample_indices, token_mask
from trimformer.models.layer_calls import model_inputs


def features(lengths, *, per_token=False):
    """Encoded samples of the given lengths; sample i repeats the token 3 + i."""
    samples = []
    for i, length in enumerate(lengths):
        labels = [i] * length if per_token else i
        samples.append({"input_ids": [3 + i] * length, "attention_mask": [1] * length, "labels": labels})
    return samples


@given(rows=st.integers(0, 50), wanted=st.integers(0, 60), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_sampling_is_without_replacement_and_repeats_with_its_seed(rows, wanted, seed):
    drawn = sample_indices(rows, wanted, seed)
    assert len(set(drawn)) == len(drawn) == min(rows, wanted)
    assert set(drawn) <= set(range(rows))
    assert drawn == sample_indices(rows, wanted, seed)


def test_another_seed_draws_other_rows_and_more_samples_extend_fewer():
    assert sample_indices(100, 20, 0) != sample_indices(100, 20, 1)
    assert sample_indices(100, 20, 0) == sample_indices(100, 40, 0)[:20]


@given(lengths=st.lists(st.integers(1, 9), max_size=17), batch_size=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_batches_hold_every_sample_once_with_its_own_tokens_and_label(lengths, batch_size):
    batches = make_batches(features(lengths), make_tokenizer(), batch_size)
    indices = []
    for batch in batches:
        for index, ids, mask, label in zip(
            *(batch[k] for k in ("index", "input_ids", "attention_mask", "labels")), strict=True
        ):
            length = lengths[int(index)]
            assert ids.tolist() == [3 + int(index)] * length + [1] * (len(ids) - length)
            assert mask.tolist() == [1] * length + [0] * (len(ids) - length)
            assert label == index
            indices.append(int(index))
    assert sorted(indices) == list(range(len(lengths)))
    assert count_samples(batches) == len(lengths)
    assert all(len(batch["index"]) <= batch_size for batch in batches)


@given(lengths=st.lists(st.integers(1, 30), max_size=30), batch_size=st.integers(1, 9), max_tokens=st.integers(1, 99))
@settings(max_examples=60, deadline=None)
def test_a_batch_exceeds_the_tokens_only_as_a_single_sample(lengths, batch_size, max_tokens):
    batches = make_batches(features(lengths), make_tokenizer(), batch_size, max_tokens=max_tokens)
    for batch in batches:
        assert batch["input_ids"].numel() <= max_tokens or len(batch["index"]) == 1
        assert len(batch["index"]) <= batch_size
    assert sorted(i for batch in batches for i in batch["index"].tolist()) == list(range(len(lengths)))


def test_long_samples_sit_together_and_are_padded_to_the_longest_of_them():
    batches = make_batches(features([2, 9, 3, 8]), make_tokenizer(), batch_size=2)
    assert [batch["index"].tolist() for batch in batches] == [[1, 3], [2, 0]]
    assert [batch["input_ids"].shape[1] for batch in batches] == [9, 3]


def test_token_labels_are_minus_100_exactly_on_padding():
    batch = collate(features([2, 5, 3], per_token=True), make_tokenizer())
    assert batch["labels"].shape == batch["input_ids"].shape
    assert torch.equal(batch["labels"] == -100, ~token_mask(batch))


def test_span_positions_are_stacked():
    samples = [
        {"input_ids": [3] * n, "attention_mask": [1] * n, "start_positions": 0, "end_positions": n - 1} for n in (2, 4)
    ]
    batch = collate(samples, make_tokenizer())
    assert (batch["start_positions"].tolist(), batch["end_positions"].tolist()) == ([0, 0], [1, 3])


def test_model_inputs_leave_out_labels_and_index():
    (batch,) = make_batches(features([2, 3]), make_tokenizer(), 2)
    assert set(model_inputs(batch)) == {"input_ids", "attention_mask"}


def test_mean_length_counts_tokens_without_padding():
    assert mean_length(features([2, 5, 8])) == 5.0
