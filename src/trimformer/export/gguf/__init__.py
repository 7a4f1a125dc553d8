"""Exports causal language models to GGUF, the format of llama.cpp, with a size of its own for each layer."""
