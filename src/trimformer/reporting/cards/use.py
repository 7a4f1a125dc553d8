"""The hub's task of a model, and the lines of Python that load and run it."""

import json

from transformers import PreTrainedModel

from trimformer.checkpoints.load_guard import is_pruned
from trimformer.data.processor import is_dual_encoder
from trimformer.data.sentence_transformers import sentence_head_of
from trimformer.options.choices import Format

# The hub's tasks by the suffix of the class name.
_TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForNextSentencePrediction": "text-classification",
    "ForMultipleChoice": "multiple-choice",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForImageClassification": "image-classification",
    "ForImageClassificationWithTeacher": "image-classification",
    "ForCTC": "automatic-speech-recognition",
    "ForAudioClassification": "audio-classification",
    "ForAudioFrameClassification": "audio-classification",
    "ForXVector": "audio-classification",
}

# Tasks for which the card shows a pipeline of Transformers.
_PIPELINES = (
    "text-classification", "token-classification", "fill-mask", "image-classification", "audio-classification",
    "zero-shot-image-classification", "text-generation",
)  # fmt: skip

# Suffixes of classes that Optimum has.
_OPTIMUM = (
    "ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM",
    "ForImageClassification", "ForCTC", "ForAudioClassification", "ForAudioFrameClassification",
)  # fmt: skip
_NOT_IN_OPTIMUM = (("openvino", "ForMultipleChoice"),)


def pipeline_tag(model: PreTrainedModel) -> str:
    """Returns the hub's name of a model's task."""
    head = sentence_head_of(model)
    if head is not None:
        if not head.is_cross_encoder:
            return "sentence-similarity"
        return "text-ranking" if model.config.num_labels == 1 else "text-classification"
    is_audio = model.main_input_name in ("input_values", "input_features")
    for end, tag in _TASKS.items():
        if type(model).__name__.endswith(end):
            return "audio-classification" if is_audio and tag == "text-classification" else tag
    if is_dual_encoder(model.config, model.main_input_name):
        return "zero-shot-image-classification"
    return "image-feature-extraction" if model.main_input_name == "pixel_values" else "feature-extraction"


def library(model: PreTrainedModel) -> str:
    """Returns the name of the library that loads a model's directory."""
    return "transformers" if sentence_head_of(model) is None else "sentence-transformers"


def kind_tags(model: PreTrainedModel) -> list[str]:
    """Returns the tags by which the hub finds models of sentence-transformers."""
    head = sentence_head_of(model)
    if head is None:
        return []
    more = ["cross-encoder"] if head.is_cross_encoder else ["feature-extraction", "sentence-similarity"]
    return ["sentence-transformers", *more]


def loading_lines(model: PreTrainedModel, name: str) -> list[str]:
    """Returns Python lines that load a pruned directory and run the model.

    Args:
        model: the model in the directory.
        name: of the directory.
    """
    tag, lines = pipeline_tag(model), ["import trimformer  # lets Transformers load layers of different widths"]
    if not is_pruned(model.config):  # the plain layout loads without trimformer
        lines = []
    if sentence_head_of(model) is not None:
        return [*lines, *_sentence_lines(model, _quoted(name))]
    if tag in _PIPELINES:
        return [*lines, "from transformers import pipeline", "", f'run = pipeline("{tag}", model={_quoted(name)})']
    processor, inputs = _inputs(model, "pt")
    return [
        *lines,
        f"from transformers import {processor}, {type(model).__name__}",
        "",
        f"processor = {processor}.from_pretrained({_quoted(name)})",
        f"model = {type(model).__name__}.from_pretrained({_quoted(name)})",
        *inputs,
        "outputs = model(**inputs)",
    ]


def _quoted(name: str) -> str:
    """Returns a name as a Python string."""
    return json.dumps(name, ensure_ascii=False)


def export_lines(model: PreTrainedModel, name: str, file: str, form: Format) -> dict[str, list[str]]:
    """Returns Python lines that run an exported directory, by library.

    Args:
        model: the exported model.
        name: of the directory.
        file: name of the file in the folder named after the format.
        form: format of the file.
    """
    if form == "gguf":
        return {"llama.cpp": _llama_cpp_lines(_quoted(f"{name}/{form}/{file}"))}
    processor, inputs = _inputs(model, "np")
    path, name = _quoted(f"{name}/{form}/{file}"), _quoted(name)
    load = f"processor = {processor}.from_pretrained({name})"
    if form == "onnx":
        title, module, optimum = "ONNX Runtime", "onnxruntime", "ORT"
        open_file = f"session = onnxruntime.InferenceSession({path})"
        run = ["names = [value.name for value in session.get_inputs()]",
               "outputs = session.run(None, {key: inputs[key] for key in names})"]  # fmt: skip
    else:
        title, module, optimum = "OpenVINO", "openvino", "OV"
        open_file = f"model = openvino.compile_model({path})"
        run = ["names = [value.any_name for value in model.inputs]",
               "outputs = list(model({key: inputs[key] for key in names}).values())"]  # fmt: skip
    lines = [f"import {module}", f"from transformers import {processor}", "", load, open_file, *inputs, *run]
    snippets = {title: lines}
    if sentence_head_of(model) is not None:
        options = f'{name}, backend="{form}", model_kwargs={{"file_name": "{form}/{file}"}}'
        return {"sentence-transformers": _sentence_lines(model, options), **snippets}
    kind = type(model).__name__
    end = next((end for end in _OPTIMUM if kind.endswith(end) and (form, end) not in _NOT_IN_OPTIMUM), None)
    end = end or ("ForFeatureExtraction" if pipeline_tag(model) == "feature-extraction" else None)
    if end:
        package = "optimum.onnxruntime" if form == "onnx" else "optimum.intel"
        load = f'model = {optimum}Model{end}.from_pretrained({name}, subfolder="{form}", file_name="{file}")'
        snippets["Optimum"] = [f"from {package} import {optimum}Model{end}", "", load]
    return snippets


def _llama_cpp_lines(path: str) -> list[str]:
    """Returns Python lines that run a GGUF file with the package xllamacpp."""
    return [
        "import xllamacpp",
        "",
        "params = xllamacpp.CommonParams()",
        f"params.model.path = {path}",
        "server = xllamacpp.Server(params)",
        'answer = server.handle_completions({"prompt": "The capital of France is", "max_tokens": 32})',
        'print(answer["choices"][0]["text"])',
    ]


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
    """Returns the processor's class and the lines that make inputs with it."""
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
