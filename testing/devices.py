"""A device without memory, on which stages run by shapes only: it finds tensors that meet on different devices."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from testing import families
from testing.models import pruned
from trimformer.data.outputs import divergence, find_problem, predict
from trimformer.importance.fisher import collect_mask_grads
from trimformer.importance.second_moments import collect_moments
from trimformer.models.layer_calls import Batch, record_calls
from trimformer.refit.reconstruct import reconstruct

NAME = "shapes"


class _Backend(backend_registration._DummyBackendModule):  # type: ignore[misc]
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> None:
    """Registers the device, in this process for good."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    with shapes_only():  # starts the threads of backward passes, which cannot start later
        torch.empty(1, device=NAME, requires_grad=True).sum().backward()


class _AnyValues(TorchFunctionMode):
    """Answers what reads values of a tensor without memory: numbers are 1, conditions false, masks true everywhere."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, tensor = getattr(function, "__name__", ""), args[0] if args else None
        if isinstance(tensor, FakeTensor):
            if name in ("item", "__float__", "__int__", "__index__", "__bool__"):
                return name != "__bool__" and (1.0 if tensor.is_floating_point() else 1)
            if name == "tolist":
                return _ones(tensor.shape, 1.0 if tensor.is_floating_point() else 1)
            if name == "nonzero":
                return torch.arange(len(tensor), device=tensor.device).unsqueeze(1).expand(-1, tensor.dim())
            if name == "__getitem__" and isinstance(args[1], Tensor) and args[1].dtype == torch.bool:
                return tensor.flatten(0, args[1].dim() - 1)
        return function(*args, **(kwargs or {}))


class _AnyScalars(TorchDispatchMode):
    """Answers what reads a number in a backward hook, where function modes are off: 1."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        return function(*args, **(kwargs or {}))


def _ones(shape: Any, value: float) -> Any:
    return [_ones(shape[1:], value) for _ in range(shape[0])] if len(shape) else value


@contextmanager
def shapes_only() -> Iterator[None]:
    """Context in which tensors have a shape, a dtype and a device, but no memory."""
    one_thread = torch.autograd.set_multithreading_enabled(False)  # backward hooks run in the context too
    with FakeTensorMode(allow_non_fake_inputs=True), _AnyValues(), _AnyScalars(), one_thread:
        yield


def place(model: nn.Module) -> None:
    """Moves a model to the device, in place; call it in the context."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(on_device(parameter.data), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = on_device(buffer)


def on_device(tensor: Tensor) -> Tensor:
    """Returns a tensor of the same shape and dtype on the device."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=NAME)


def check_stages(models: Sequence[str]) -> None:
    """Runs the stages that need no values on each model, dense and pruned, and prints its name.

    Args:
        models: names such as "Bert:ForSequenceClassification", rows of `testing.families`.
    """
    for name in models:
        family, head = name.split(":")
        dense = families.make(family, head)
        student = pruned(dense, families.random_masks(dense))
        batch = families.inputs(dense)
        if head == families.GENERATORS.get(family):
            batch["next_tokens"] = batch["input_ids"].roll(-1, 1)
        with shapes_only():
            place(dense)
            place(student)
            _run_stages(dense, student, {key: on_device(value) for key, value in batch.items()})
        print(name, "passed", flush=True)


def _run_stages(dense: PreTrainedModel, student: PreTrainedModel, batch: Batch) -> None:
    """Runs calibration, the walk of a refit, and the comparison of outputs."""
    problem = find_problem(dense)
    for model in (dense, student):
        collect_mask_grads(model, [batch], objective="curvature")
        collect_moments(model, [batch])
        record_calls(model, batch)
    reconstruct(dense, [student], [batch, batch])
    divergence(predict(student, [batch])[0], predict(dense, [batch])[0], batch, problem)
