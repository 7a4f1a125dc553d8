"""The table of calls from Python: each is refused in one sentence before any work, and writes nothing."""

import pytest

from tests.conftest import make_model, make_tokenizer
from tests.hostile.cases_python import CASES
from trimformer import TrimformerError


@pytest.fixture(scope="module")
def inputs():
    return make_model(num_labels=2, num_hidden_layers=2), make_tokenizer()


@pytest.mark.parametrize("name", CASES)
def test_a_call_that_cannot_be_meant_is_one_sentence(name, inputs, tmp_path, monkeypatch):
    model, tokenizer = inputs
    monkeypatch.chdir(tmp_path)
    call, words = CASES[name]
    with pytest.raises(TrimformerError) as caught:
        call(model, tokenizer, tmp_path)
    sentence = str(caught.value)
    assert words in sentence, sentence
    assert "\n" not in sentence
    assert len(sentence) < 400
    assert not list(tmp_path.iterdir())
