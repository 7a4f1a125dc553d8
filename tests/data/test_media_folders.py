"""Reading folders of images and sounds."""

import datasets
import pytest

from tests.data.media_fixtures import save_image, save_sound
from trimformer.data.splits import read_splits
from trimformer.errors import TrimformerError

SAVE = {"image": (save_image, "png"), "audio": (save_sound, "wav")}

MEDIA = pytest.mark.parametrize("column", SAVE)


def fill(path, column, *names):
    save, suffix = SAVE[column]
    return [str(save(path / f"{name}.{suffix}")) for name in names]


@MEDIA
def test_classes_are_folders(tmp_path, column):
    files = fill(tmp_path, column, "cat/0", "cat/1", "dog/0")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("not data")
    (rows,) = read_splits(tmp_path).values()
    assert rows == [{column: f, "label": name} for f, name in zip(files, ["cat", "cat", "dog"], strict=True)]


@MEDIA
def test_splits_are_folders_of_class_folders(tmp_path, column):
    train, test = fill(tmp_path, column, "train/cat/0", "test/dog/0")
    expected = {"train": [{column: train, "label": "cat"}], "test": [{column: test, "label": "dog"}]}
    assert read_splits(tmp_path) == expected


@MEDIA
def test_a_flat_folder_has_no_labels(tmp_path, column):
    files = fill(tmp_path, column, "b", "a")
    assert read_splits(tmp_path) == {"all": [{column: file} for file in sorted(files)]}


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, "image", "train/0", "bus/0")
    assert [row["label"] for row in read_splits(tmp_path)["all"]] == ["bus", "train"]


def test_a_metadata_file_adds_its_columns(tmp_path):
    (file,) = fill(tmp_path, "image", "train/0")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,caption\n0.png,a cat\n")
    assert read_splits(tmp_path) == {"train": [{"image": file, "caption": "a cat"}]}


def test_a_metadata_file_above_the_splits_is_refused(tmp_path):
    fill(tmp_path, "image", "train/0", "validation/0")
    (tmp_path / "metadata.json").write_text('[{"license": "CC"}]')
    assert set(read_splits(tmp_path)) == {"train", "validation"}
    (tmp_path / "metadata.csv").write_text("file_name,label\ntrain/0.png,cat\nvalidation/0.png,dog\n")
    with pytest.raises(TrimformerError, match="lies above the folders of the splits, where it is not read"):
        read_splits(tmp_path)


def test_a_saved_dataset_is_not_decoded(tmp_path):
    (file,) = fill(tmp_path, "audio", "0")
    dataset = datasets.Dataset.from_dict({"audio": [file]}).cast_column("audio", datasets.Audio())
    dataset.save_to_disk(tmp_path / "saved")
    assert read_splits(tmp_path / "saved")["all"][0]["audio"]["path"]


@pytest.mark.parametrize("column", SAVE)
def test_a_parquet_file_holds_bytes(tmp_path, column):
    fill(tmp_path, column, "0")
    kind = {"image": datasets.Image(decode=False), "audio": datasets.Audio(decode=False)}[column]
    content = (tmp_path / f"0.{SAVE[column][1]}").read_bytes()
    dataset = datasets.Dataset.from_list([{column: {"bytes": content, "path": "0"}}])
    dataset.cast_column(column, kind).to_parquet(tmp_path / "train.parquet")
    assert read_splits(tmp_path) == {"train": [{column: {"bytes": content, "path": "0"}}]}


@pytest.mark.parametrize(
    ("names", "extra", "words"),
    [
        (["cat/0"], lambda path: (path / "dog").mkdir(), "class folder '.*dog' holds no image"),
        (["cat/0"], lambda path: save_sound(path / "dog" / "0.wav"), "images and sounds"),
        (["cat/0"], lambda path: save_image(path / "0.png"), "both files and class folders"),
        (["0"], lambda path: (path / "metadata.csv").write_text("file_name\n1.png\n"), "row 1 .* is not an image"),
        ([], lambda path: (path / "cat").mkdir(), "no images or sounds"),
    ],
)
def test_ambiguous_or_empty_folders_are_errors_that_name_them(tmp_path, names, extra, words):
    fill(tmp_path, "image", *names)
    extra(tmp_path)
    with pytest.raises(TrimformerError, match=words) as error:
        read_splits(tmp_path)
    assert str(tmp_path) in str(error.value)
