"""Makes the directory for `torchless bench --peers`: one model in the form that each contender takes.

    python -m torchless_bench.prepare CHECKPOINT DIRECTORY
    torchless bench DIRECTORY/bundle --peers DIRECTORY

CHECKPOINT is a directory that `save_pretrained` wrote. Where it holds no weights, random ones are made, which is
enough where only time and size are measured: of DistilBERT alone, as transformers draws them. What is in DIRECTORY
already stays; what cannot be made here is skipped, with the reason, and so are then the contenders that need it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchless import strict_json
from torchless.errors import CheckpointError, TorchlessError, one_line
from torchless_bench.contenders import OPTIMUM_EXPORT

# The activation between a classifier's layers, and these layers: what comes after CTranslate2's encoder.
_HEADS = {
    "distilbert": ("relu", ("pre_classifier", "classifier")),
    "bert": ("tanh", ("bert.pooler.dense", "classifier")),
}

_SETTINGS = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class Step:
    """One directory to make.

    Attributes:
        role: its name, one of `contenders.ROLES`.
        needs: modules without which it cannot be made, and is skipped.
        after: the role of the directory that it is made from; None: the checkpoint given.
        make: makes it; takes the directory that it is made from and the one to fill.
    """

    role: str
    needs: tuple[str, ...]
    after: str | None
    make: Callable[[Path, Path], None]


def prepare(checkpoint: Path, directory: Path, say: Callable[[str], None] = lambda line: None) -> None:
    """Make what `directory` lacks, each part whole or not at all; `say` is told what became of each in a line.

    Raises:
        CheckpointError: `checkpoint` is not one, or a step failed on it.
        OSError: something cannot be read or written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for step in STEPS:
        target = directory / step.role
        source = directory / step.after if step.after else checkpoint
        missing = [name for name in step.needs if not _is_here(name)]
        if target.exists():
            say(f"{step.role}: there already")
        elif missing:
            say(f"{step.role}: skipped: {', '.join(missing)} not installed")
        elif not source.exists():
            say(f"{step.role}: skipped: it is made from {source}, which is not there")
        else:
            with _appearing(target) as folder:
                step.make(source, folder)
            say(f"{step.role}: made")


def random_distilbert(config: dict[str, Any], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return weights for `DistilBertForSequenceClassification` of this config, by tensor name.

    Drawn as transformers does (`DistilBertPreTrainedModel._init_weights`): matrices and tables from a normal
    distribution of standard deviation `initializer_range`, the pad token's row 0, biases 0, norms 1 and 0.
    """
    draw = np.random.default_rng(seed)
    dim, hidden, layers = config["dim"], config["hidden_dim"], config["n_layers"]
    labels = len(config.get("id2label") or {0: "", 1: ""})
    weights: dict[str, NDArray[np.float32]] = {}

    def matrix(name: str, *shape: int) -> None:
        weights[name] = draw.standard_normal(shape, np.float32) * np.float32(config.get("initializer_range", 0.02))

    def linear(name: str, outputs: int, inputs: int) -> None:
        matrix(f"{name}.weight", outputs, inputs)
        weights[f"{name}.bias"] = np.zeros(outputs, np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(dim, np.float32), np.zeros(dim, np.float32)

    matrix("distilbert.embeddings.word_embeddings.weight", config["vocab_size"], dim)
    weights["distilbert.embeddings.word_embeddings.weight"][config.get("pad_token_id", 0)] = 0
    matrix("distilbert.embeddings.position_embeddings.weight", config["max_position_embeddings"], dim)
    norm("distilbert.embeddings.LayerNorm")
    for layer in range(layers):
        name = f"distilbert.transformer.layer.{layer}"
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            linear(f"{name}.attention.{part}", dim, dim)
        norm(f"{name}.sa_layer_norm")
        linear(f"{name}.ffn.lin1", hidden, dim)
        linear(f"{name}.ffn.lin2", dim, hidden)
        norm(f"{name}.output_layer_norm")
    linear("pre_classifier", dim, dim)
    linear("classifier", labels, dim)
    return weights


def _checkpoint(source: Path, folder: Path) -> None:
    path = source / "config.json"
    try:
        config = strict_json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; give a directory that save_pretrained wrote") from None
    except strict_json.JSONError as error:
        raise CheckpointError(f"{path}: {error}") from None
    weights = [file for file in source.iterdir() if file.name.startswith("model") and ".safetensors" in file.suffixes]
    for file in (*(source / name for name in _SETTINGS), *weights, *source.glob("*.safetensors.index.json")):
        if file.exists():
            shutil.copyfile(file, folder / file.name)
    if weights:
        return
    if not isinstance(config, dict) or config.get("model_type") != "distilbert":
        raise CheckpointError(f"{source}: holds no safetensors, and random ones can be made of a distilbert alone")
    save = importlib.import_module("safetensors.numpy").save_file
    save(random_distilbert(config), folder / "model.safetensors", {"format": "pt"})


def _optimum(source: Path, folder: Path) -> None:
    arguments = [argument.format(model=source, output=folder) for argument in OPTIMUM_EXPORT]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise CheckpointError(f"{source}: optimum-cli cannot export it: {one_line(last, 300)}")


def _optimum_int8(source: Path, folder: Path) -> None:
    quantization = importlib.import_module("onnxruntime.quantization")
    quantization.quantize_dynamic(
        source / "model.onnx", folder / "model.onnx", weight_type=quantization.QuantType.QInt8
    )
    for name in _SETTINGS:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def _ctranslate2(source: Path, folder: Path) -> None:
    config = strict_json.loads((source / "config.json").read_bytes())
    family = config.get("model_type")
    if family not in _HEADS:
        raise CheckpointError(f"{source}: is a {family}; the head is known of {', '.join(_HEADS)}")
    activation, layers = _HEADS[family]
    converters = importlib.import_module("ctranslate2.converters")
    converters.TransformersConverter(str(source)).convert(str(folder), force=True)  # the directory is there, empty
    load = importlib.import_module("safetensors.numpy").load_file
    weights = {name: tensor for file in source.glob("*.safetensors") for name, tensor in load(file).items()}
    head = {
        f"{part}{i}": weights[f"{layer}.{part}"].astype(np.float32)
        for i, layer in enumerate(layers)
        for part in ("weight", "bias")
    }
    np.savez(folder / "head.npz", activation=np.array(activation), **head)
    # config.json is CTranslate2's own there.
    shutil.copyfile(source / "config.json", folder / "checkpoint_config.json")
    for name in _SETTINGS[1:]:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def _bundle(source: Path, folder: Path) -> None:
    folder.rmdir()  # an export makes its directory itself
    importlib.import_module("torchless_export").export(source, folder, min_agreement=0.0)


STEPS = (
    Step("checkpoint", ("safetensors",), None, _checkpoint),
    Step("optimum", ("optimum.exporters.onnx",), "checkpoint", _optimum),
    Step("optimum-int8", ("onnx", "onnxruntime"), "optimum", _optimum_int8),
    Step("ctranslate2", ("ctranslate2", "transformers", "torch", "safetensors"), "checkpoint", _ctranslate2),
    Step("bundle", ("torchless_export", "onnx", "onnxruntime"), "checkpoint", _bundle),
)


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its package is
        return False


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Give an empty directory that is renamed to `target` when complete, and removed when it is not."""
    outer = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        folder = outer / target.name
        folder.mkdir()
        yield folder
        folder.rename(target)
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m torchless_bench.prepare", description=about)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint, or one without weights")
    parser.add_argument("directory", type=Path, help="what to give to --peers")
    given = parser.parse_args(arguments)
    try:
        prepare(given.checkpoint, given.directory, lambda line: print(line, flush=True))
    except TorchlessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
