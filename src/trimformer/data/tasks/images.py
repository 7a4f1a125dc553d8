"""Image tasks: classification, regression, multi-label and embeddings of images, alone or each with a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from trimformer.data.batches import IMAGE_KEYS, Features
from trimformer.data.media import open_image
from trimformer.data.outputs import Problem
from trimformer.data.processor import image_processor_of
from trimformer.data.rows import Rows, numbered
from trimformer.data.tasks.base import NO_LIMIT, Task, check_columns, guess_column, missing_column
from trimformer.data.tasks.sample_labels import LabelTask, add_labels, label_fields, label_names
from trimformer.data.tasks.text import TEXT_COLUMNS, encode_texts
from trimformer.data.tasks.text_values import column_texts
from trimformer.errors import TrimformerError, listed, one_sentence

IMAGE_COLUMNS = ("image", "img", "images", "picture", "photo", "image_path", "pixels", "path", "file")


@dataclass(frozen=True, kw_only=True)
class ImageTask(LabelTask):
    """One image per row, with at most one label (or list of labels).

    Attributes:
        image_column: column of paths, bytes or images; see `open_image`.
    """

    image_column: str = "image"

    auto_class: ClassVar[str] = "AutoModelForImageClassification"

    def length_limit(self, processor: Any, config: PreTrainedConfig) -> int:
        """Returns the task's own limit: the image processor resizes all images to one size."""
        return self.max_length

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """See `Task.encode`."""
        check_columns(rows, [self.image_column])
        labels = self.read_labels(rows, config)
        return add_labels(encode_images(rows, self.image_column, processor, config), labels)


@dataclass(frozen=True, kw_only=True)
class ImageTextTask(ImageTask):
    """An image and a text per row, for models with an image tower and a text tower; the rows are unlabelled.

    Attributes:
        text_column: column of texts.
    """

    label_column: str | None = None
    text_column: str = "text"

    auto_class: ClassVar[str] = "AutoModel"

    def length_limit(self, processor: Any, config: PreTrainedConfig) -> int:
        """See `Task.length_limit`; the limit applies to the texts."""
        return Task.length_limit(self, processor, config)

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """See `Task.encode`."""
        check_columns(rows, [self.image_column, self.text_column])
        texts = encode_texts([column_texts(rows, self.text_column)], self, processor, config)
        images = encode_images(rows, self.image_column, processor, config)
        return [{**text, **image} for text, image in zip(texts, images, strict=True)]


def encode_images(rows: Rows, column: str, processor: Any, config: PreTrainedConfig) -> list[dict[str, Any]]:
    """Returns the image processor's output for each row: `pixel_values` [channels, height, width] and similar.

    Raises:
        TrimformerError: there is no image processor, or an image cannot be read.
    """
    image_processor = image_processor_of(processor)
    channels = getattr(getattr(config, "vision_config", config), "num_channels", None)
    features = []
    for number, row in numbered(rows):
        image = open_image(row[column], f"row {number}")
        if channels == 1:
            image = image.convert("L")
        with one_sentence(f"the image processor fails at row {number}"):
            processed = image_processor(image, return_tensors="pt")
        features.append({key: processed[key][0] for key in IMAGE_KEYS if key in processed})
    return features


def image_task(
    problem: Problem,
    config: PreTrainedConfig,
    rows: Rows,
    *,
    columns: Sequence[str] | None = None,
    label_column: str | None = None,
) -> ImageTask:
    """Creates a task for the user's own rows; columns that are not named are guessed from the usual names.

    Raises:
        TrimformerError: no image column is named and none can be guessed.
    """
    column = columns[0] if columns else guess_column(IMAGE_COLUMNS, rows[0])
    if column is None:
        raise missing_column("image column", rows[0])
    labels = label_fields(problem, rows, label_names(config), label_column, [column])
    return ImageTask(name="image", image_column=column, max_length=NO_LIMIT, **labels)


def image_text_task(rows: Rows, *, columns: Sequence[str] | None = None, max_length: int = NO_LIMIT) -> ImageTextTask:
    """Creates a task for rows of images and texts; columns that are not named are guessed from the usual names.

    Args:
        rows: the user's examples.
        columns: the text column, or the image column and the text column.
        max_length: maximum number of tokens per text.

    Raises:
        TrimformerError: a column is not named and cannot be guessed.
    """
    named = list(columns or ())
    image = named[0] if len(named) == 2 else guess_column(IMAGE_COLUMNS, rows[0], named)
    text = named[-1] if named else guess_column(("caption", "captions", *TEXT_COLUMNS), rows[0])
    if image is None or text is None:
        raise TrimformerError(
            f"no {'image' if image is None else 'text'} column found among {listed(rows[0])}; this model needs an "
            "image and a text in each row: name both with --text-column (text_column=... in Python)"
        )
    return ImageTextTask(
        name="image_text", problem="embedding", image_column=image, text_column=text, max_length=max_length
    )
