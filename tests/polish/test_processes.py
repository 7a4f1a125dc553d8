"""Several processes polish one model: each trains on its part, and all end with the same weights."""

import pytest

from tests.commands import launch, script

POLISH = """
import sys, torch, trimformer
sys.path.insert(0, sys.argv[1])
from tests.commands import problem_model, problem_rows
from tests.conftest import make_tokenizer
from trimformer.utils import distributed
from trimformer.utils.distributed import gather_rows, is_main, join_processes, leave_processes

device = join_processes("cpu")
rows = problem_rows("embedding", 120)
options = {"batch_size": 8, "neuron_multiple": 4, "method": "obs-polish", "polish_budget": "200x", "device": device}
result = trimformer.prune(problem_model("embedding"), make_tokenizer(), rows, 0.3, **options)
weights = gather_rows(torch.cat([p.detach().flatten() for p in result.model.parameters()]).unsqueeze(0))
assert torch.equal(weights[0], weights[1])
polish = result.polish
assert polish.accepted and polish.after < polish.before, polish
assert (polish.samples, polish.held_out) == (80, 12), polish
if is_main():
    print("polished by", distributed.world_size())
leave_processes()
"""


@pytest.mark.slow
def test_two_processes_end_with_one_model(tmp_path, request):
    done = launch(script(tmp_path / "polish.py", POLISH), request.config.rootpath)
    assert done.returncode == 0, done.stderr
    assert "polished by 2" in done.stdout
