"""A tiny SentenceTransformer directory and texts for it."""

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from tests.conftest import make_model, make_rows, make_tokenizer

TEXTS = [row["sentence"] for row in make_rows(7)]


def sentence_model(folder, *after, pooling="mean", family="Bert", **options):
    """Saves a tiny SentenceTransformer with mean pooling and returns its directory."""
    make_model(family, "Model", **options).save_pretrained(folder / "encoder")
    make_tokenizer().save_pretrained(folder / "encoder")
    modules = [Transformer(str(folder / "encoder")), Pooling(24, pooling_mode=pooling), *after]
    model = SentenceTransformer(modules=modules, prompts={"query": "the "}, similarity_fn_name="dot", device="cpu")
    model.save_pretrained(str(folder / "model"))
    return folder / "model"
