"""Fine-tunes a model on a GLUE or SQuAD task or on the user's own files; the same as `trimformer finetune`.

The flags are those of Transformers' own example of this name: --model_name_or_path --task_name --do_train
--do_eval --max_seq_length --output_dir, --train_file and --validation_file, and all of TrainingArguments.
"""

import sys

from trimformer.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
