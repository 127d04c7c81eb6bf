"""Folders that ``save_pretrained`` of transformers wrote: ``config.json``, weights, and often a tokenizer."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from study.errors import InputError, few
from study.loading.library import Facts, Library
from study.loading.weight_file import weight_file
from study.offline import offline
from study.subject import InputSpec, Model
from study.tokenizers.huggingface import FILES as TOKENIZER_FILES

if TYPE_CHECKING:
    from torch import nn

WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
PICKLES: Final = (b"PK\x03\x04", b"\x80\x02")
"""How what torch.save wrote begins, since 1.6 and before."""
TASKS: Final = {
    "ForSequenceClassification": "classification",
    "ForImageClassification": "classification",
    "ForMultipleChoice": "classification",
    "ForTokenClassification": "tokens",
    "ForCausalLM": "language",
    "LMHeadModel": "language",
    "ForSemanticSegmentation": "segmentation",
    "ForObjectDetection": "detection",
}
"""What the ending of an architecture's name says of its outputs."""
LONGEST: Final = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
AFTER_PADDING: Final = frozenset(
    {"roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "xmod"}
    | {"data2vec-text", "mpnet", "ibert", "esm", "lilt", "layoutlmv3", "markuplm"}
)
"""Models that number positions from the padding token's id on, so that so many cannot be used."""
FREE: Final = (None, None)


@final
class HuggingFace(Library):
    """A folder with ``config.json`` that names an architecture of transformers."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By the ``model_type`` that its ``config.json`` says."""
        return path.is_dir() and "model_type" in _config(path)

    @classmethod
    def files(cls, path: Path) -> list[Path]:
        """The configuration, the weights (all shards of them) and the tokenizer."""
        config = _config(path)
        if config.get("auto_map"):
            raise InputError(
                f"{path} keeps code of its own, which diag does not run: load the model in Python and hand "
                "it to diag.run()."
            )
        if not config.get("architectures"):
            raise InputError(
                f"{path}/config.json names no architecture: save the model with save_pretrained()."
            )
        beside = [path / name for name in TOKENIZER_FILES if (path / name).is_file()]
        return [path / "config.json", *_weights(path), *beside]

    @classmethod
    def facts(cls, path: Path) -> Facts:
        """Task, classes, inputs, tokenizer, positions."""
        config = _config(path)
        task = _task(config)
        tokenizer = str(path) if any((path / name).is_file() for name in TOKENIZER_FILES) else ""
        return Facts(
            task=task,
            classes=() if task == "regression" else _classes(config),
            inputs=_inputs(path, config, tokenizer),
            output="logits",
            tokenizer=tokenizer,
            vocabulary=int(config.get("vocab_size") or 0),
            longest=_longest(config),
        )

    @classmethod
    def is_live(cls, thing: object) -> bool:
        """None needs to be: a live model of transformers is a module of torch as any other."""
        del thing
        return False

    @classmethod
    def facts_of_live(cls, thing: object) -> Facts:
        """Nothing that a module of torch does not say."""
        del thing
        return Facts()

    @classmethod
    def build(cls, model: Model) -> "nn.Module":
        """By the class that the configuration names, in float32."""
        import torch

        path = model.path
        name = str(_config(path)["architectures"][0])
        try:
            with offline():
                import transformers
        except ImportError:
            raise InputError(
                f"{path} is a model of transformers: pip install 'diag-toolkit[transformers]'."
            ) from None
        kind: Any = getattr(transformers, name, None)
        if kind is None:
            raise InputError(
                f"transformers {transformers.__version__} has no architecture '{name}': install the version "
                f"that wrote {path}."
            )
        try:
            with offline():
                module, found = kind.from_pretrained(
                    str(path), local_files_only=True, dtype=torch.float32, output_loading_info=True
                )
        except Exception as error:  # its loaders raise whatever they meet
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"{path} cannot be read by transformers: {line}") from error
        missing = sorted(found["missing_keys"])
        if missing:
            raise InputError(
                f"{path} lacks the weights {few(missing)} of {name}, which would be random: save the trained "
                "model with save_pretrained()."
            )
        module.config.use_cache = False
        built: nn.Module = module
        return built


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        return {}
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _weights(path: Path) -> list[Path]:
    """One file, or the shards that an index names."""
    for name in WEIGHTS:
        if (path / name).is_file():
            _must_be_what_it_is_called(path / name)
            return [path / name]
        index = path / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            missing = [shard for shard in shards if not (path / shard).is_file()]
            if missing:
                raise InputError(f"{path} lacks the weights in {few(missing)}: copy them too.")
            return [index, *(path / shard for shard in shards)]
    raise InputError(f"{path} has config.json and no weights: save the model with save_pretrained().")


def _must_be_what_it_is_called(file: Path) -> None:
    """Transformers reads by the name.

    Raises:
        InputError: the file is the other kind of weights.
    """
    with file.open("rb") as stream:
        head = stream.read(len(PICKLES[0]))
    if file.name == WEIGHTS[0] and head.startswith(PICKLES):
        raise InputError(f"{file} is no safetensors file but torch's own: rename it {WEIGHTS[1]}.")
    if file.name == WEIGHTS[1] and weight_file(file) is not None:
        raise InputError(f"{file} is a safetensors file: rename it {WEIGHTS[0]}.")


def _longest(config: dict[str, Any]) -> int:
    """How many tokens it takes; 0 where any number."""
    positions = next((int(config[name]) for name in LONGEST if config.get(name)), 0)
    if config.get("model_type") in AFTER_PADDING:
        return positions - int(config.get("pad_token_id") or 0) - 1
    if config.get("position_biased_input") is False:  # DeBERTa, whose positions are relative
        return 0
    return positions


def _task(config: dict[str, Any]) -> str:
    name = next(iter(config.get("architectures") or ()), "")
    task = next((task for ending, task in TASKS.items() if name.endswith(ending)), "")
    problem = config.get("problem_type") or ""
    if task == "classification" and problem.startswith("multi_label"):
        return "multilabel"
    if task == "classification" and (problem == "regression" or len(config.get("id2label") or (0, 1)) == 1):
        return "regression"
    return task


def _classes(config: dict[str, Any]) -> tuple[str, ...]:
    """``id2label``, unless it is what transformers writes where nobody named the classes."""
    given = config.get("id2label") or {}
    names = tuple(str(given[key]) for key in sorted(given, key=int))
    return () if names == tuple(f"LABEL_{at}" for at in range(len(names))) else names


def _parts(path: Path) -> list[str]:
    """Whether the tokenizer numbers the texts of a pair, as BERT's does."""
    file = path / "tokenizer.json"
    try:
        made = json.loads(file.read_text(encoding="utf-8")).get("post_processor") or {}
    except (OSError, ValueError, AttributeError):
        return []
    numbered = any(part.get("type_id") for piece in made.get("pair") or () for part in piece.values())
    return ["token_type_ids"] if numbered or made.get("type") == "BertProcessing" else []


def _inputs(path: Path, config: dict[str, Any], tokenizer: str) -> tuple[InputSpec, ...]:
    """Token arrays as the tokenizer names them, or pixels."""
    if config.get("vocab_size"):
        said = path / "tokenizer_config.json"
        settings = json.loads(said.read_text(encoding="utf-8")) if tokenizer and said.is_file() else {}
        names = settings.get("model_input_names") or ["input_ids", "attention_mask", *_parts(path)]
        if int(config.get("type_vocab_size") or 0) < 1:
            names = [name for name in names if name != "token_type_ids"]
        order = ("input_ids", "attention_mask", "token_type_ids")
        return tuple(InputSpec(name, FREE, "int64") for name in order if name in names)
    if config.get("num_channels") and (size := config.get("image_size")):
        high, wide = (size, size) if isinstance(size, int) else (int(one) for one in size)
        return (InputSpec("pixel_values", (None, int(config["num_channels"]), high, wide), "float32"),)
    return ()
