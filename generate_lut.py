"""The paper's command line for latency look-up tables.

    python generate_lut.py --model_name MODEL --bs 8 --seq_len 128 --output_dir ./luts/bert-8-128

writes mha_lut.pt (ms for 1..heads) and ffn_lut.pt (1..neurons), measured on this machine; see `trimformer lut`.
"""

import argparse
import sys

from trimformer.cli.flags.latency import add_lut_arguments
from trimformer.cli.main import COMMANDS, guarded

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measures latency tables, with the flags of the paper's code.")
    add_lut_arguments(parser, underscores=True)
    arguments = parser.parse_args()
    sys.exit(guarded(lambda: COMMANDS["lut"].run(arguments)))
