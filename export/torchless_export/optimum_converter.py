"""From a PyTorch model to ONNX through optimum-onnx: the only importer of optimum.

For every architecture that it supports; what comes out is judged by the parity gate like any other graph.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from torchless.errors import CheckpointError, one_line
from torchless_export.checkpoint import Checkpoint
from torchless_export.pytorch_reference import PyTorchReference, quiet, system_errors

NAME = "optimum"
AVAILABLE = importlib.util.find_spec("optimum") is not None and importlib.util.find_spec("torch") is not None


def check_supported(checkpoint: Checkpoint) -> None:
    """Refuse an architecture that optimum cannot export for the task, before anything heavy is loaded.

    Raises:
        CheckpointError: optimum is not installed, or does not know the architecture or the task for it.
    """
    if not AVAILABLE:
        raise CheckpointError(
            f"exporting {checkpoint.architecture!r} needs optimum and PyTorch: pip install 'torchless[cpu,optimum]'"
        )
    with quiet():
        importlib.import_module("optimum.exporters.onnx.model_configs")  # registers the architectures
        manager = importlib.import_module("optimum.exporters.tasks").TasksManager
        try:
            tasks = manager.get_supported_tasks_for_model_type(
                checkpoint.architecture.replace("_", "-"), "onnx", library_name="transformers"
            )
        except KeyError:
            tasks = {}
    if checkpoint.task.name not in tasks:
        raise CheckpointError(
            f"{checkpoint.path / 'config.json'}: optimum cannot export the architecture {checkpoint.architecture!r} "
            f"for {checkpoint.task.name}; it can for architectures listed in its documentation under ONNX"
        )


def convert(reference: PyTorchReference, checkpoint: Checkpoint, folder: Path) -> Path:
    """Write the reference's model as ONNX into `folder`; returns the model file.

    Raises:
        CheckpointError: optimum fails on it; the message carries its first line.
        OSError: the disk is full, and the like.
    """
    export = importlib.import_module("optimum.exporters.onnx").onnx_export_from_model
    try:
        with quiet(), system_errors():
            export(
                reference.model,
                folder,
                task=checkpoint.task.name,
                monolith=True,
                do_validation=False,
                no_post_process=True,
            )
    except OSError:
        raise
    except Exception as error:  # torch.onnx and optimum raise whatever their parts do
        reason = one_line(str(error) or type(error).__name__, 400)
        raise CheckpointError(f"{checkpoint.path}: optimum cannot export it: {reason}") from error
    return folder / "model.onnx"
