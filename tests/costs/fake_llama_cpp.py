"""A llama.cpp in which time is a function of the sizes that a GGUF file lists."""

import numpy as np

from trimformer.export.gguf.timed_file import TokenTimes

FIXED, SECONDS_PER_TURN = 5.0, 1.0


def sublayers_ms(kv_heads, neurons):
    """Milliseconds of sublayers: a constant, and slopes that change at half of 4 heads and of 256 neurons."""
    kv_heads, neurons = np.asarray(kv_heads, dtype=float), np.asarray(neurons, dtype=float)
    attention = (kv_heads > 0) * (0.3 + 0.5 * np.minimum(kv_heads, 2) + 0.4 * np.maximum(kv_heads - 2, 0))
    return float(np.sum(attention) + np.sum(0.2 + np.minimum(neurons, 128) / 64 + np.maximum(neurons - 128, 0) / 80))


class FakeFiles:
    """Stands for `TimedFile`; each turn of all files is slower than the one before, as on a machine that becomes busy.

    Attributes:
        requests: (tokens of the prompt, generated, whether the prompt is kept) of each measurement.
    """

    def __init__(self, monkeypatch, law=sublayers_ms):
        self.requests, self.law = [], law
        monkeypatch.setattr("trimformer.costs.token_speed.TimedFile", self.open)

    def open(self, path, context, threads):
        import gguf

        fields = gguf.GGUFReader(path).fields
        arch = fields["general.architecture"].contents()
        lists = [fields[f"{arch}.{name}"].contents() for name in ("attention.head_count_kv", "feed_forward_length")]
        count = fields[f"{arch}.block_count"].contents()
        kv_heads, neurons = (value if isinstance(value, list) else [value] * count for value in lists)
        return FakeFile(self, FIXED + self.law(kv_heads, neurons))


class FakeFile:
    def __init__(self, machine, ms):
        self.machine, self.ms, self.turn = machine, ms, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def time(self, prompt, generated, *, keep_prompt=False):
        self.machine.requests.append((len(prompt), generated, keep_prompt))
        self.turn += 1
        load = 1 + 0.01 * self.turn
        return TokenTimes(10 * self.ms * load / len(prompt), self.ms * load)
