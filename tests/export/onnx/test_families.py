"""Files of every family and head against PyTorch, on batches of other shapes than what was traced."""

from pathlib import Path

import pytest

from testing.families import GRID, exists, exported, make
from trimformer.errors import TrimformerError

# Images; the others take too long.
QUICK = ("ViT", "ForImageClassification")

# With a mask, their pooling goes through the samples one by one: a file would take as many as were traced.
FIXED = ("Wav2Vec2, stable", "UniSpeechSat, stable", "Data2VecAudio")


@pytest.mark.parametrize(
    ("family", "head"),
    [pytest.param(*row, id="-".join(row), marks=() if row == QUICK else pytest.mark.slow) for row in GRID],
)
def test_a_file_gives_what_the_model_gives(family: str, head: str, tmp_path: Path) -> None:
    if not exists(family, head):
        pytest.skip("this version of transformers has no such model")
    if head == "ForXVector" and family in FIXED:
        with pytest.raises(TrimformerError, match="cannot run the file"):
            exported(make(family, head), tmp_path)
        assert not list(tmp_path.iterdir())
        return
    plain, small = exported(make(family, head), tmp_path)
    assert plain.difference <= 1e-3  # export_onnx itself holds to 1e-4 of the largest output
    assert -1e-6 < small.divergence < float("inf")  # of equal outputs it is 0 but for rounding
