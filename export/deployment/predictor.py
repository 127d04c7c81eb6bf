"""``predict.py`` of a bundle: written for one model, and run with onnxruntime and numpy alone.

Nothing of the user's goes into its text: names, classes and numbers are read from ``signature.json``.
"""

from typing import Final

from export.deployment.feeding import Feeding
from export.deployment.signature import AS_MULTICLASS, Signature
from study.task import Task

HEAD: Final = '''"""What the model says of rows. It needs onnxruntime and numpy, and nothing else@NEEDS@.

python predict.py example.npz          a .npz of the model's inputs by name, or a .npy of its only input@FROM@
python predict.py example.npz --raw    the outputs themselves
python predict.py --check              does this machine give what the model gave where it was made?
"""

@IMPORTS@
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent
TOLD = json.loads((HERE / "signature.json").read_text(encoding="utf-8"))
SESSION = onnxruntime.InferenceSession(str(HERE / "model.onnx"), providers=TOLD["providers"])
OUTPUTS = [one["name"] for one in TOLD["outputs"]]


def predict(rows):
    """The outputs by name, of the inputs by name (rows first)."""
    fed = {one["name"]: np.ascontiguousarray(rows[one["name"]], one["dtype"]) for one in TOLD["inputs"]}
@RUN@


'''
FREE: Final = "    return dict(zip(OUTPUTS, SESSION.run(None, fed)))"
IN_PIECES: Final = """    # so many rows a call, the last one filled up
    count, size = len(next(iter(fed.values()))), TOLD["batch"]
    calls = [
        SESSION.run(None, {k: np.take(v, range(at, at + size), 0, mode="wrap") for k, v in fed.items()})
        for at in range(0, count, size)
    ]
    return {name: np.concatenate(parts)[:count] for name, parts in zip(OUTPUTS, zip(*calls))}"""
TELL: Final = '''def tell(outputs, rows):
    """A line a row."""
@TELL@


'''
SCORES: Final = """    task = TOLD["task"]
    scores = outputs[task["scored"]].astype(np.float64)
"""
SOFTMAX: Final = {
    "logits": """    chances = np.exp(scores - scores.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
""",
    "probabilities": "    chances = scores\n",
    "log-probabilities": "    chances = np.exp(scores)\n",
}
SIGMOID: Final = {
    "logits": "    chances = 1 / (1 + np.exp(-scores))\n",
    "probabilities": "    chances = scores\n",
    "log-probabilities": "    chances = np.exp(scores)\n",
}
BY_ROW: Final = "    scores = scores.reshape(len(scores), -1)\n"
CLASSES_LAST: Final = '    scores = np.moveaxis(scores, task["class_axis"], -1)\n'
TELLS: Final = {
    "multiclass": """    said = zip(scores.argmax(1), chances)
    return [f"{task['classes'][best]}  {row[best]:.4f}" for best, row in said]""",
    "binary": """    said = zip((scores[:, 0] > task["threshold"]).astype(int), chances[:, 0])
    return [f"{task['classes'][yes]}  {chance if yes else 1 - chance:.4f}" for yes, chance in said]""",
    "multilabel": """    said = [np.flatnonzero(row > task["threshold"]) for row in scores]
    return [
        ", ".join(f"{task['classes'][at]} {row[at]:.4f}" for at in which) or "none"
        for row, which in zip(chances, said)
    ]""",
    "regression": """    return ["  ".join(f"{value:.6g}" for value in row) for row in scores]""",
    "forecasting": """    said = [zip(task["steps"], row) for row in scores]
    return ["  ".join(f"{step} {value:.6g}" for step, value in row) for row in said]""",
    "tokens": """    kept = rows.get("attention_mask", np.ones(scores.shape[:-1]))
    said = [row[np.asarray(mask) > 0] for row, mask in zip(scores.argmax(-1), kept)]
    return [" ".join(task["classes"][best] for best in row) for row in said]""",
    "language": """    mask = rows.get("attention_mask", np.ones(scores.shape[:-1]))
    last = mask.shape[1] - 1 - np.asarray(mask)[:, ::-1].argmax(1)  # of the tokens that are no filling
    said = zip(scores[range(len(last)), last], chances[range(len(last)), last])
    return [f"next token {row.argmax()}  {chance[row.argmax()]:.4f}" for row, chance in said]""",
    "segmentation": """    said, width = scores.argmax(-1), scores.shape[-1]
    counts = [np.bincount(one.ravel(), minlength=width) for one in said]
    said = [[(task["classes"][at], one[at] / one.sum()) for at in np.flatnonzero(one)] for one in counts]
    return [", ".join(f"{name} {share:.1%}" for name, share in one) for one in said]""",
}
PLAIN: Final = (
    """    return [f"{name}  {list(array.shape)}  {array.dtype}" for name, array in outputs.items()]"""
)
LOADS: Final = {
    "images": '''def from_file(path):
    """An image, by Pillow."""
    from PIL import Image

    (one,) = TOLD["inputs"]
    how = TOLD["preparation"]["inputs"][one["name"]]
    image = Image.open(path).convert("L" if how["colours"] == "grey" else "RGB")
    image = image.resize(how["size"][::-1], Image.Resampling.BILINEAR) if how["size"] else image
    pixels = np.asarray(image, np.float32).reshape(1, image.height, image.width, -1) / np.float32(255)
    return {one["name"]: pixels if how["axes"].endswith("channels") else pixels.transpose(0, 3, 1, 2)}


''',
    "columns": '''def from_file(path):
    """The rows of a CSV file, by the names of its columns."""
    with open(path, newline="", encoding="utf-8") as file:
        rows, fed = list(csv.DictReader(file)), {}
    for name, how in TOLD["preparation"]["inputs"].items():
        cells = np.array([[float(row[column] or "nan") for column in how["columns"]] for row in rows])
        fed[name] = np.where(np.isnan(cells), how["missing"]["values"] if how["missing"] else np.nan, cells)
        if np.isnan(fed[name]).any():
            sys.exit(f"line {2 + np.flatnonzero(np.isnan(fed[name]).any(1))[0]} of {path} lacks a cell")
    return fed


''',
    "tokenizers": '''def from_file(path):
    """A text file, one text a line, by the package tokenizers."""
    from tokenizers import Tokenizer

    how = TOLD["preparation"]["tokenizer"]
    tokenizer = Tokenizer.from_file(str(HERE / how["file"]))
    tokenizer.enable_truncation(how["max_tokens"]) if how["max_tokens"] else tokenizer.no_truncation()
    tokenizer.no_padding()
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    found = tokenizer.encode_batch([line for line in lines if line.strip()])
    return filled([one.ids for one in found], [one.type_ids for one in found])


''',
    "vocabulary": '''def from_file(path):
    """A text file, one text a line."""
    how = TOLD["preparation"]["tokenizer"]
    known = json.loads((HERE / how["file"]).read_text(encoding="utf-8"))
    found = []
    for line in filter(None, Path(path).read_text(encoding="utf-8").splitlines()):
        words = re.findall(how["cut"], line.lower() if how["lower_case"] else line)
        ids = [known.get(word, how["unknown"]) for word in words]
        found.append([one for one in ids if one is not None][: how["max_tokens"]])
    return filled(found, [[0] * len(ids) for ids in found])


''',
}
FILLED: Final = '''def filled(ids, parts):
    """Token arrays of one length, by the names of the model's inputs."""
    fixed = [one["shape"][1] for one in TOLD["inputs"] if len(one["shape"]) > 1]
    longest = next((size for size in fixed if isinstance(size, int)), max(map(len, ids)))
    pad = TOLD["preparation"]["tokenizer"]["pad"] or 0
    made = {
        "input_ids": [one + [pad] * (longest - len(one)) for one in ids],
        "attention_mask": [[1] * len(one) + [0] * (longest - len(one)) for one in ids],
        "token_type_ids": [one + [0] * (longest - len(one)) for one in parts],
        "lengths": [len(one) for one in ids],
    }
    return {name: np.array(made[array]) for name, array in TOLD["preparation"]["arrays"].items()}


'''
TAIL: Final = '''def load(path):
    """Rows by input."""
    if path.endswith(".npz"):
        rows = dict(np.load(path))
    elif path.endswith(".npy"):
        rows = {TOLD["inputs"][0]["name"]: np.load(path)}
    else:
        @OTHER@
    lacking = [one["name"] for one in TOLD["inputs"] if one["name"] not in rows]
    return sys.exit(f"{path} lacks {lacking}: it holds {list(rows)}") if lacking else rows


def check():
    """Run the example, and compare with what came out where the model was made."""
    given, expected, good = predict(load(str(HERE / "example.npz"))), np.load(HERE / "expected.npz"), True
    for one in TOLD["outputs"]:
        want, got = expected[one["name"]], given[one["name"]]
        same = want.shape == got.shape and np.allclose(want, got, 0, one["tolerance"], equal_nan=True)
        far = np.nanmax(np.abs(want.astype(float) - got), initial=0) if want.shape == got.shape else np.inf
        verdict = "the same" if same else "DIFFERENT"
        print(f"{one['name']}: {verdict} (by {far:.3g}; {one['tolerance']:.3g} is tolerated)")
        good = good and bool(same)
    return 0 if good else 1


def main(words):
    files = [word for word in words if not word.startswith("-")]
    if "--check" in words:
        return check()
    if not files:
        return sys.exit(__doc__)
    rows = load(files[0])
    outputs = predict(rows)
    if "--raw" in words:
        for name, array in outputs.items():
            print(f"{name} {list(array.shape)}\\n{array}")
    else:
        print("\\n".join(tell(outputs, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''


SAID: Final = {
    "images": (" (Pillow for image files)", ", or an image file"),
    "columns": ("", ", or a .csv of its columns"),
    "tokenizers": (" (tokenizers for text files)", ", or a .txt of texts"),
    "vocabulary": ("", ", or a .txt of texts"),
}
"""What else it needs, and what else it reads."""
IMPORTS: Final = {"columns": ("csv",), "vocabulary": ("re",)}


def predictor(signature: Signature, task: Task | None, feeding: Feeding | None) -> str:
    """The text of ``predict.py``: the parts that this model needs."""
    loader = _loader(signature, feeding)
    needs, files = SAID.get(loader, ("", ""))
    modules = sorted({"json", "sys", *IMPORTS.get(loader, ())})
    imports = "\n".join(f"import {module}" for module in modules)
    head = HEAD.replace("@NEEDS@", needs).replace("@FROM@", files).replace("@IMPORTS@", imports)
    in_pieces = signature.batch is not None and signature.by_row
    head = head.replace("@RUN@", IN_PIECES if in_pieces else FREE)
    texts = FILLED if loader in ("tokenizers", "vocabulary") else ""
    other = "rows = from_file(path)" if loader else 'sys.exit(f"{path} is no .npz and no .npy")'
    tell = TELL.replace("@TELL@", _tell(task))
    return head + tell + texts + LOADS.get(loader, "") + TAIL.replace("@OTHER@", other)


def _loader(signature: Signature, feeding: Feeding | None) -> str:
    """Which files it can read beside arrays; empty: none."""
    if feeding is None or feeding.kind in ("arrays", "function"):
        return ""
    if feeding.kind == "images":
        return "images" if len(signature.inputs) == 1 else ""
    if feeding.kind == "texts":
        tokenizer = feeding.told["tokenizer"]
        assert isinstance(tokenizer, dict)
        return str(tokenizer["library"] or "vocabulary")
    return feeding.kind


def _tell(task: Task | None) -> str:
    if task is None or task.kind not in TELLS:
        return PLAIN
    if task.kind in AS_MULTICLASS:
        return SCORES + CLASSES_LAST + SOFTMAX[task.output] + TELLS[task.kind]
    chances = {"multiclass": SOFTMAX, "binary": SIGMOID, "multilabel": SIGMOID}.get(task.kind, {})
    return SCORES + BY_ROW + chances.get(task.output, "") + TELLS[task.kind]
