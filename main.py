"""The paper's command line: prunes a fine-tuned checkpoint of a GLUE or SQuAD task.

    python main.py --model_name bert-base-uncased --task_name qqp --ckpt_dir DIR --constraint 0.5

writes masks, log, results and the pruned model to outputs/<model_name>/<task>/<metric>/<constraint>/seed_<seed>/.
"""

import argparse
import sys

from trimformer.cli.arguments import non_negative_int, positive_int
from trimformer.cli.main import guarded, imported


def parse_arguments() -> argparse.Namespace:
    """Parses the flags of the paper's code."""
    parser = argparse.ArgumentParser(description="Post-training pruning, with the flags of the paper's code.")
    parser.add_argument("--model_name", required=True, help="names the output; and the tokenizer if ckpt_dir has none")
    parser.add_argument("--task_name", required=True)
    parser.add_argument("--ckpt_dir", required=True, help="directory of the fine-tuned checkpoint")
    parser.add_argument("--output_dir", help="default: outputs/<model_name>/<task>/<metric>/<constraint>/seed_<seed>")
    parser.add_argument("--gpu", type=non_negative_int, default=0, help="index of the GPU; without one the CPU is used")
    parser.add_argument("--metric", choices=["mac", "latency"], default="mac")
    parser.add_argument("--constraint", type=float, required=True, help="MACs or latency to keep, in (0, 1]")
    parser.add_argument("--mha_lut", help="look-up table of attention latencies (--metric latency)")
    parser.add_argument("--ffn_lut", help="look-up table of feed-forward latencies (--metric latency)")
    parser.add_argument("--any_lut", action="store_true", help="use tables that were measured elsewhere")
    parser.add_argument("--num_samples", type=positive_int, default=2048)
    parser.add_argument("--seed", type=non_negative_int, default=0)
    parser.add_argument("--sample_batch_size", type=positive_int, help="default: 32, for SQuAD 12; halved for 'large'")
    parser.add_argument("--data_dir", help="folder of train.* and validation.* in the hub's columns; default: the hub")
    parser.add_argument("--method", default="kwon2022", help="default: the paper's, kwon2022")
    return parser.parse_args()


if __name__ == "__main__":
    parsed = parse_arguments()
    sys.exit(guarded(lambda: imported("trimformer.cli.paper", "run")(parsed)))
