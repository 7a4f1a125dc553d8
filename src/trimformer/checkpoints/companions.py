"""Carries the files of a model's directory that trimformer does not write itself, such as SetFit's head."""

import logging
import shutil
import stat
from fnmatch import fnmatch
from pathlib import Path

from transformers import PreTrainedModel

from trimformer.data.sentence_transformers import is_own_file, is_tokenizer_file, module_folders, sentence_head_of

logger = logging.getLogger(__name__)

# Files of the dense weights in another format, of its training and of its scores: they do not fit a smaller model.
_OF_DENSE_MODEL = (
    "*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.onnx", "*.onnx_data", "*.h5", "*.msgpack", "*.ot",
    "*.tflite", "*.gguf", "*.mlmodel", "*.index.json", "adapter_*", "trainer_*", "train_results*", "eval_results*",
    "all_results*", "predict_results*", "events.out.*",
)  # fmt: skip


def remember_source(model: PreTrainedModel, folder: Path) -> None:
    """Records the directory that a model was loaded from; copies of the model keep it."""
    vars(model)["source_folder"] = folder.absolute()


def copy_companions(model: PreTrainedModel, target: Path) -> None:
    """Copies the files beside a model that are not written anew, and logs the names of those that stay behind.

    Files are copied as bytes and never opened as anything else. Files that exist in `target` stay as they are.

    Args:
        model: a model from `load_model`; other models have no directory.
        target: directory of the new model, with its config, weights and processor files.
    """
    head = sentence_head_of(model)
    if head is not None:
        head.copy_files(target)
    source = vars(model).get("source_folder")
    if source is None or not source.is_dir():
        return
    folders, left = module_folders(source), []
    # A CTC model is pruned by its feature extractor, so its tokenizer is not written anew.
    has_tokenizer = (target / "tokenizer_config.json").exists()
    for path in sorted(source.iterdir()):
        is_own = is_own_file(path.name) and (has_tokenizer or not is_tokenizer_file(path.name))
        if is_own or path.name in folders or (target / path.name).exists():
            continue
        if any(fnmatch(path.name, pattern) for pattern in _OF_DENSE_MODEL) or not _is_readable_file(path):
            left.append(path.name)
        else:
            shutil.copyfile(path, target / path.name)
    if left:
        logger.info("these files of the model's directory stay behind: %s", ", ".join(left))


def _is_readable_file(path: Path) -> bool:
    """Whether a path is a regular file, or a link to one, that can be read; opens nothing that could block."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb"):
            return True
    except OSError:
        return False
