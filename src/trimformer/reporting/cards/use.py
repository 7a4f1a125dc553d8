"""What a model is for, in the hub's words, and the lines that run it."""

from transformers import PreTrainedModel

from trimformer.checkpoints.load_guard import is_pruned
from trimformer.data.processor import is_dual_encoder
from trimformer.data.sentence_transformers import sentence_head_of
from trimformer.options.choices import Format

# The hub's tasks, by the end of the class's name.
_TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForNextSentencePrediction": "text-classification",
    "ForMultipleChoice": "multiple-choice",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForImageClassification": "image-classification",
    "ForImageClassificationWithTeacher": "image-classification",
    "ForCTC": "automatic-speech-recognition",
    "ForAudioClassification": "audio-classification",
    "ForAudioFrameClassification": "audio-classification",
    "ForXVector": "audio-classification",
}

# Of these a pipeline of Transformers gives what people want.
_PIPELINES = (
    "text-classification", "token-classification", "fill-mask", "image-classification", "audio-classification",
    "zero-shot-image-classification",
)  # fmt: skip

# Optimum has a class for each.
_OPTIMUM = (
    "ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM",
    "ForImageClassification", "ForCTC", "ForAudioClassification", "ForAudioFrameClassification",
)  # fmt: skip
_NOT_IN_OPTIMUM = (("openvino", "ForMultipleChoice"),)


def pipeline_tag(model: PreTrainedModel) -> str:
    """The hub's name of a model's task."""
    head = sentence_head_of(model)
    if head is not None:
        if not head.is_cross_encoder:
            return "sentence-similarity"
        return "text-ranking" if model.config.num_labels == 1 else "text-classification"
    of_sound = model.main_input_name in ("input_values", "input_features")
    for end, tag in _TASKS.items():
        if type(model).__name__.endswith(end):
            return "audio-classification" if of_sound and tag == "text-classification" else tag
    if is_dual_encoder(model.config, model.main_input_name):
        return "zero-shot-image-classification"
    return "image-feature-extraction" if model.main_input_name == "pixel_values" else "feature-extraction"


def library(model: PreTrainedModel) -> str:
    """The library that loads a model's directory."""
    return "transformers" if sentence_head_of(model) is None else "sentence-transformers"


def kind_tags(model: PreTrainedModel) -> list[str]:
    """Tags that sentence-transformers gives its models, so that the hub finds ours among them."""
    head = sentence_head_of(model)
    if head is None:
        return []
    more = ["cross-encoder"] if head.is_cross_encoder else ["feature-extraction", "sentence-similarity"]
    return ["sentence-transformers", *more]


def loading_lines(model: PreTrainedModel, name: str) -> list[str]:
    """Python that loads a pruned directory and runs the model.

    Args:
        model: the one in the directory.
        name: of the directory.
    """
    tag, lines = pipeline_tag(model), ["import trimformer  # lets Transformers load layers of different widths"]
    if not is_pruned(model.config):  # of a plain layout, which needs nothing of ours
        lines = []
    if sentence_head_of(model) is not None:
        return [*lines, *_sentence_lines(model, f'"{name}"')]
    if tag in _PIPELINES:
        return [*lines, "from transformers import pipeline", "", f'run = pipeline("{tag}", model="{name}")']
    processor, inputs = _inputs(model, "pt")
    return [
        *lines,
        f"from transformers import {processor}, {type(model).__name__}",
        "",
        f'processor = {processor}.from_pretrained("{name}")',
        f'model = {type(model).__name__}.from_pretrained("{name}")',
        *inputs,
        "outputs = model(**inputs)",
    ]


def export_lines(model: PreTrainedModel, name: str, file: str, form: Format) -> dict[str, list[str]]:
    """Python that runs an exported directory, by the library that does it.

    Args:
        model: the one that was exported.
        name: of the directory.
        file: in its folder of the format's name.
        form: of the files.
    """
    processor, inputs = _inputs(model, "np")
    path, load = f"{name}/{form}/{file}", f'processor = {processor}.from_pretrained("{name}")'
    if form == "onnx":
        title, module, optimum = "ONNX Runtime", "onnxruntime", "ORT"
        open_file = f'session = onnxruntime.InferenceSession("{path}")'
        run = ["names = [value.name for value in session.get_inputs()]",
               "outputs = session.run(None, {key: inputs[key] for key in names})"]  # fmt: skip
    else:
        title, module, optimum = "OpenVINO", "openvino", "OV"
        open_file = f'model = openvino.compile_model("{path}")'
        run = ["names = [value.any_name for value in model.inputs]",
               "outputs = list(model({key: inputs[key] for key in names}).values())"]  # fmt: skip
    lines = [f"import {module}", f"from transformers import {processor}", "", load, open_file, *inputs, *run]
    found = {title: lines}
    if sentence_head_of(model) is not None:
        options = f'"{name}", backend="{form}", model_kwargs={{"file_name": "{form}/{file}"}}'
        return {"sentence-transformers": _sentence_lines(model, options), **found}
    kind = type(model).__name__
    end = next((end for end in _OPTIMUM if kind.endswith(end) and (form, end) not in _NOT_IN_OPTIMUM), None)
    end = end or ("ForFeatureExtraction" if pipeline_tag(model) == "feature-extraction" else None)
    if end:
        package = "optimum.onnxruntime" if form == "onnx" else "optimum.intel"
        load = f'model = {optimum}Model{end}.from_pretrained("{name}", subfolder="{form}", file_name="{file}")'
        found["Optimum"] = [f"from {package} import {optimum}Model{end}", "", load]
    return found


def _sentence_lines(model: PreTrainedModel, options: str) -> list[str]:
    head = sentence_head_of(model)
    if head is not None and head.is_cross_encoder:
        call = 'scores = model.predict([("a question", "a passage")])'
        return ["from sentence_transformers import CrossEncoder", "", f"model = CrossEncoder({options})", call]
    call = 'embeddings = model.encode(["a sentence", "another one"])'
    return [
        "from sentence_transformers import SentenceTransformer",
        "",
        f"model = SentenceTransformer({options})",
        call,
    ]


def _inputs(model: PreTrainedModel, tensors: str) -> tuple[str, list[str]]:
    """The class of the processor, and the lines in which it makes inputs of that kind of tensors."""
    options, tag = f'return_tensors="{tensors}"', pipeline_tag(model)
    if is_dual_encoder(model.config, model.main_input_name):
        return "AutoProcessor", [f'inputs = processor(text="a text", images=image, {options})']
    if model.main_input_name == "pixel_values":
        return "AutoImageProcessor", [f"inputs = processor(image, {options})"]
    if model.main_input_name != "input_ids":
        return "AutoFeatureExtractor", [f"inputs = processor(sound, sampling_rate=processor.sampling_rate, {options})"]
    if tag == "multiple-choice":
        encode = f'encoded = processor(["a question"] * 2, ["one answer", "another"], padding=True, {options})'
        return "AutoTokenizer", [encode, "inputs = {key: value[None] for key, value in encoded.items()}"]
    texts = '"a question", "a context"' if tag == "question-answering" else '"a text"'
    return "AutoTokenizer", [f"inputs = processor({texts}, {options})"]
