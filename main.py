"""The paper's command line: prunes a fine-tuned checkpoint of a GLUE or SQuAD task.

    python main.py --model_name bert-base-uncased --task_name qqp --ckpt_dir DIR --constraint 0.5

writes masks, log, results and the pruned model to outputs/<model_name>/<task>/<metric>/<constraint>/seed_<seed>/.
"""

import argparse
import logging
import sys
from pathlib import Path

import torch

from trimformer.asked import check_constraint
from trimformer.cli.arguments import DataOptions, load_task_data, non_negative_int, positive_int
from trimformer.cli.logs import guarded
from trimformer.cli.prune import prune_and_write
from trimformer.costs.lut import LatencyTable, read_table
from trimformer.errors import TrimformerError
from trimformer.files import claim_output
from trimformer.places import check_model_place
from trimformer.processes import is_main, join
from trimformer.shrinking.checkpoint import load
from trimformer.verify.promise import LatencyOptions


def parse_arguments() -> argparse.Namespace:
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


def read_luts(arguments: argparse.Namespace) -> LatencyTable | None:
    """The two tables, or None where they are to be measured or are not needed."""
    if arguments.metric == "mac" or not (arguments.mha_lut or arguments.ffn_lut):
        return None
    if not (arguments.mha_lut and arguments.ffn_lut):
        raise TrimformerError("--metric latency takes both --mha_lut and --ffn_lut, or neither to measure them now")
    return read_table(arguments.mha_lut, arguments.ffn_lut)


def run(arguments: argparse.Namespace) -> None:
    check_constraint(arguments.constraint)
    if ".." in Path(arguments.model_name).parts:
        raise TrimformerError(f"--model_name '{arguments.model_name}' leads out of outputs/; give it no '..'")
    check_model_place(arguments.ckpt_dir)
    latency = LatencyOptions(table=read_luts(arguments), any_table=arguments.any_lut)
    device = join(f"cuda:{arguments.gpu}" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        logging.getLogger("trimformer").info("no CUDA device: --gpu is ignored, the CPU is used")
    setting = Path(arguments.task_name, arguments.metric, str(arguments.constraint), f"seed_{arguments.seed}")
    name = arguments.model_name if not Path(arguments.model_name).is_absolute() else Path(arguments.model_name).name
    output = arguments.output_dir if arguments.output_dir is not None else Path("outputs", name, setting)
    with claim_output(output, wanted=is_main()):
        prune_to(output, name, arguments, latency, device)


def prune_to(
    output: str | Path, name: str, arguments: argparse.Namespace, latency: LatencyOptions, device: str
) -> None:
    """Prunes as the flags say, and writes the output directory."""
    model, tokenizer = load(arguments.ckpt_dir, tokenizer_name=arguments.model_name)
    options = DataOptions(arguments.data_dir, arguments.task_name, seed=arguments.seed)
    task, train, validation = load_task_data(options, model)
    batch_size = 12 if task.problem == "span" else 32
    prune_and_write(
        model,
        tokenizer,
        train,
        output,
        vars(arguments),
        ["python", "main.py", *sys.argv[1:]],
        constraint=arguments.constraint,
        eval_dataset=validation,
        task=task,
        metric=arguments.metric,
        latency=latency,
        method=arguments.method,
        num_samples=arguments.num_samples,
        batch_size=arguments.sample_batch_size or (batch_size // 2 if "large" in name else batch_size),
        seed=arguments.seed,
        device=device,
    )


if __name__ == "__main__":
    parsed = parse_arguments()
    sys.exit(guarded(lambda: run(parsed)))
