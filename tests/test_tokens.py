"""Taggers: how tags are read, aligned with pieces and counted; entities as seqeval counts them."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import classification_report, confusion_matrix, f1_score

from diagnose.entities import Entities, over_types, scheme_of, scores, spans_of, sums_of
from diagnose.entity_errors import KINDS, errors_of
from study.data.opening import open_source
from study.errors import InputError, SkipError
from study.feed import Feed, Piece
from study.guess import guess_task
from study.readings.tokens import Tokens, first_pieces
from study.record import Verdict
from study.subject import Data, Split
from study.tags import tags_of
from study.task import Task
from study.tokens import Tokens as Encoded
from tests.prediction_tables import checked, view_of

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BIOES = ("O", *(f"{prefix}-{kind}" for kind in ("PER", "LOC") for prefix in "BIES"))


def rows_of(classes: tuple[str, ...]) -> st.SearchStrategy[list[list[tuple[str, str]]]]:
    """Sentences of tags and predictions, any tag after any other."""
    pair = st.tuples(st.sampled_from(classes), st.sampled_from(classes))
    return st.lists(st.lists(pair, min_size=1, max_size=8), min_size=1, max_size=5)


def counts(classes: tuple[str, ...], rows: list[list[tuple[str, str]]]):
    scheme = scheme_of(classes)
    lengths = np.array([len(row) for row in rows])
    label, said = (
        np.array([classes.index(pair[at]) for row in rows for pair in row], dtype=np.int64) for at in (0, 1)
    )
    there, found = spans_of(scheme, label, lengths), spans_of(scheme, said, lengths)
    return scheme, there, found, sums_of(scheme, there, found, len(rows))


@pytest.mark.parametrize("classes", [BIO, BIOES, ("O", "I-A", "I-B"), ("O", "B", "I")], ids=str)
@settings(max_examples=150)
@given(data=st.data())
def test_entities_are_those_of_seqeval(classes, data):
    """Also of invalid sequences: I- without B-, E- without a beginning, a change of type within."""
    from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

    rows = data.draw(rows_of(classes))
    scheme, there, found, sums = counts(classes, rows)
    for at, spans in enumerate((there, found)):
        wanted = [
            (row, first, last, kind)
            for row, pairs in enumerate(rows)
            for kind, first, last in get_entities([pair[at] for pair in pairs])
        ]
        ours = zip(spans.row, spans.first, spans.last, (scheme.types[one] for one in spans.kind), strict=True)
        assert sorted((int(a), int(b), int(c), kind) for a, b, c, kind in ours) == sorted(wanted)
    if not len(there) and not len(found):
        return
    truth, said = ([[pair[at] for pair in row] for row in rows] for at in (0, 1))
    wanted = precision_recall_fscore_support(truth, said, average="micro", zero_division=0)
    ours = np.nan_to_num(over_types(sums.sum(axis=0, keepdims=True))[0])
    assert ours == pytest.approx(wanted[:3], abs=1e-12)
    each = precision_recall_fscore_support(truth, said, average=None, zero_division=0)
    names = sorted({scheme.types[one] for one in (*there.kind, *found.kind)})
    f1 = np.nan_to_num(scores(sums.sum(axis=0, keepdims=True))[2][0])
    assert [f1[scheme.types.index(name)] for name in names] == pytest.approx(each[2].tolist(), abs=1e-12)


def test_bilou_is_bioes_by_other_names():
    classes = tuple(name.replace("E-", "L-").replace("S-", "U-") for name in BIOES)
    rows = [[("B-PER", "B-PER"), ("I-PER", "E-PER"), ("E-PER", "O"), ("S-LOC", "S-LOC")]]
    other = [[tuple(tag.replace("E-", "L-").replace("S-", "U-") for tag in pair) for pair in rows[0]]]
    assert counts(classes, other)[3].tolist() == counts(BIOES, rows)[3].tolist() == [[1, 1, 1, 1, 0, 1]]


@pytest.mark.parametrize(
    ("classes", "name"),
    [
        (BIO, "BIO"),
        (BIOES, "BIOES"),
        (("O", "I-A"), "IO"),
        (("B", "I", "O"), "BIO"),
        (("<pad>", *BIO), "BIO"),
    ],
)
def test_the_scheme_is_told_by_the_names(classes, name):
    assert scheme_of(classes).name == name


@pytest.mark.parametrize("classes", [("NOUN", "VERB", "ADJ"), ("0", "1", "2"), ("O", "PER", "LOC"), ("O",)])
def test_tags_that_name_no_entities_are_skipped(classes):
    with pytest.raises(SkipError, match="name no entities"):
        scheme_of(classes)


def encoded(words: list[int], spans: list[tuple[int, int]] | None = None) -> Encoded:
    size = len(words)
    places = np.array(spans or [(0, 0)] * size)
    return Encoded(np.arange(size), places, np.array(words), np.zeros(size, dtype=np.int64))


def test_the_first_piece_of_a_word_carries_its_tag():
    step, word = first_pieces(encoded([-1, 0, 0, 1, 3, -1]), ["a", "b", "c", "d"])
    assert step.tolist() == [1, 3, 4]
    assert word.tolist() == [0, 1, 3]
    text = "Jo-Anne saw  us."
    spans = [(0, 0), (0, 2), (2, 3), (3, 7), (8, 11), (13, 15), (15, 16), (0, 0)]
    step, word = first_pieces(encoded([-1, 0, 1, 2, 3, 4, 5, -1], spans), text)
    assert [spans[at] for at in step] == [(0, 2), (8, 11), (13, 15)]
    assert word.tolist() == [0, 1, 2]


def piece_of(labels, words=None, tokens=(), **batch) -> Piece:
    count = len(labels) if labels is not None else len(next(iter(batch.values())))
    rows = type("Rows", (), {"__len__": lambda self: count})()
    rows.labels, rows.ids = labels, tuple(f"r{at}" for at in range(count))
    rows.inputs = {} if words is None else {"tokens": words}
    return Piece(rows, batch, {}, tuple(tokens))


def test_a_row_of_the_table_is_its_words_that_count():
    """Special tokens, other pieces, words that were cut off and those without a tag are left out."""
    task = Task("tokens", "logits", BIO, "out", 5)
    scores = np.full((2, 6, 5), -5.0, dtype=np.float32)
    for row, said in enumerate([[4, 1, 4, 2, 4, 4], [4, 0, 3, 4, 4, 4]]):
        scores[row, np.arange(6), said] = 5
    labels = tags_of([["B-PER", "I-PER", "O", "O"], ["O", None, "B-LOC"]])
    tokens = [encoded([-1, 0, 0, 1, 1, -1]), encoded([-1, 0, 1, 2, -1])]
    words = [["Jonathan", "Smithers", "went", "home"], ["in", "?", "York"]]
    made = Tokens.columns(task, piece_of(labels, words, tokens), {"out": scores})
    assert made["label"].to_list() == [[1, 2], [0, 3]]
    assert made["prediction"].to_list() == [[1, 2], [0, 4]]
    assert made["word"].to_list() == [["Jonathan", "Smithers"], ["in", "York"]]
    assert made["hits"].to_list() == [2, 1]
    assert made["unscored"].to_list() == [2, 0]
    unlabelled = Tokens.columns(task, piece_of(None, words, tokens, x=np.zeros((2, 6))), {"out": scores})
    assert unlabelled["hits"].to_list() == [None, None]
    assert unlabelled["prediction"].to_list() == [[1, 2], [0, 3, 4]]


def test_steps_that_are_filled_up_do_not_count():
    task = Task("tokens", "logits", ("<pad>", *BIO), "out", 6, ignore=0)
    scores = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
    labels = np.array([[1, 2, -100, -100], [3, 0, 0, 0]])
    made = Tokens.columns(task, piece_of(labels, x=np.zeros((2, 4), np.int64)), {"out": scores})
    assert made["parts"].to_list() == [2, 1]
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0]])
    none = Tokens.columns(task, piece_of(None, x=np.zeros((2, 4), np.int64), mask=mask), {"out": scores})
    assert none["parts"].to_list() == [2, 3]
    lengths = Tokens.columns(
        task, piece_of(None, x=np.zeros((2, 4)), lengths=np.array([1, 4])), {"o": scores}
    )
    assert lengths["parts"].to_list() == [1, 4]


def test_classes_are_found_on_either_axis():
    labels = np.random.default_rng(0).integers(0, 3, (8, 7))
    last, first = np.zeros((8, 7, 3), np.float32), np.zeros((8, 3, 7), np.float32)
    for output, axis in ((last, -1), (first, 1)):
        task, said = guess_task(labels, {"out": output})
        assert (task.kind, task.class_axis, task.width, task.classes) == ("tokens", axis, 3, ("0", "1", "2"))
        assert "each word has 3 scores" in " ".join(said)


@pytest.mark.parametrize(
    ("labels", "classes", "sentence"),
    [
        (
            tags_of([["O", "B-PR"], ["O"]]),
            BIO,
            "The tag 'B-PR' is no class of this model. Did you mean 'B-PER'",
        ),
        (tags_of([[0, 5], [1]]), BIO, "The tags go up to 5, and the model tells 5 classes apart"),
        (tags_of([["a", "b"], ["c"]]), (), "3 different words ('a', 'b', 'c') and the model tells 5 apart"),
        (np.zeros(2), BIO, "A tagger needs a tag a word"),
        (np.zeros((2, 6), np.int64), BIO, "The labels have 6 steps a row, and the output 4 of 5 scores"),
    ],
)
def test_tags_that_do_not_fit_are_refused(labels, classes, sentence):
    with pytest.raises(InputError) as refused:
        guess_task(labels, {"out": np.zeros((2, 4, 5), np.float32)}, asked="tokens", classes=classes)
    assert sentence in str(refused.value)


def test_lists_of_labels_need_a_score_a_word():
    with pytest.raises(InputError, match="the output has no score a word and class"):
        guess_task(tags_of([["a"], ["a", "b"]]), {"out": np.zeros((2, 3), np.float32)})


def test_rows_whose_tags_do_not_fit_are_counted_out(tmp_path):
    rows = [
        '{"id": "good", "tokens": ["in", "York"], "ner_tags": ["O", "B-LOC"], "site": "a"}',
        '{"id": "short", "tokens": ["in", "York"], "ner_tags": ["O"], "site": "a"}',
        '{"id": "empty", "tokens": [], "ner_tags": [], "site": "a"}',
        '{"id": "none", "tokens": ["in", "York"], "ner_tags": [null, null], "site": "b"}',
        '{"id": "lost", "tokens": ["in", "York"], "site": "b"}',
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "vocab.txt").write_text("<pad>\n<unk>\nin\nyork\n")
    data = Data(str(tmp_path / "rows.jsonl"), tokenizer=str(tmp_path / "vocab.txt"))
    source = open_source(data)
    assert source.labels()[0].tolist() == ["O", "B-LOC"]
    piece = Feed.open(Split(data), ()).at(np.arange(5))
    assert piece.rows.ids == ("good",)
    assert dict(piece.broken) == {
        "short": "has 2 words and 1 tag",
        "empty": "is an empty sentence",
        "none": "has no word whose tag counts",
        "lost": "has no label",
    }
    assert list(piece.rows.metadata.columns) == ["site"]


def sentences_of(count: int, seed: int = 3, classes: int = 5) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tags at random, and predictions of which four in five are right."""
    random = np.random.default_rng(seed)
    label = [random.integers(0, classes, random.integers(2, 9)) for _ in range(count)]
    said = [
        np.where(random.random(len(one)) < 0.8, one, random.integers(0, classes, len(one))) for one in label
    ]
    return label, said


def tagged_view(folder, classes, label, said, origin=None):
    """A view of the table that the probe would write of scores that say this."""
    task = Task("tokens", "logits", classes, "out", len(classes))
    scores = np.zeros((len(label), max(map(len, label)), len(classes)), dtype=np.float32)
    for row, tags in enumerate(said):
        scores[row, np.arange(len(tags)), tags] = 3
    words = [[f"word{at}" for at in range(len(one))] for one in label]
    tokens = [encoded(list(range(len(one)))) for one in label]
    made = Tokens.columns(task, piece_of(tags_of(label), words, tokens), {"out": scores})
    index = {
        "position": pl.Series(range(len(label)), dtype=pl.Int64),
        "id": [f"r{row}" for row in range(len(label))],
    }
    return view_of(folder, task, pl.DataFrame({**index, **made}), origin)


def test_the_record_of_entities_is_that_of_seqeval(tmp_path):
    from seqeval.metrics import classification_report as report_of_entities
    from seqeval.metrics import f1_score as of_entities
    from seqeval.metrics.sequence_labeling import get_entities

    label, said = sentences_of(60)
    record = checked("entities", tagged_view(tmp_path / "v", BIO, label, said))
    names = [[[BIO[tag] for tag in row] for row in rows] for rows in (label, said)]
    f1 = record.metrics["entity_f1"]
    assert f1.value == pytest.approx(of_entities(*names), abs=1e-12)
    assert f1.low < f1.value < f1.high
    assert f1.n == 60
    told = report_of_entities(*names, output_dict=True)
    assert {row[0] for row in record.tables[0].rows} == {"PER", "LOC"}
    for kind, value, low, high, precision, recall, there, _ in record.tables[0].rows:
        assert (value, precision, recall, there) == pytest.approx(
            tuple(told[kind][name] for name in ("f1-score", "precision", "recall", "support"))
        )
        assert low < value < high
    found = {(row, *span) for row, one in enumerate(names[1]) for span in get_entities(one)}
    tagged = [(row, *span) for row, one in enumerate(names[0]) for span in get_entities(one)]
    for name, value, low, high, count in record.tables[1].rows:
        words = int(name.split()[0])
        same = [one for one in tagged if min(one[3] - one[2] + 1, 3) == words]
        assert count == len(same)
        assert value == pytest.approx(sum(one in found for one in same) / count)
        assert low < value < high


def test_the_change_since_the_model_as_it_came_is_paired(tmp_path):
    from seqeval.metrics import f1_score as of_entities

    label, said = sentences_of(80)
    worse = [np.zeros_like(tags) if row % 3 == 0 else tags for row, tags in enumerate(said)]
    origin = tagged_view(tmp_path / "came", BIO, label, said)
    record = checked("entities", tagged_view(tmp_path / "step", BIO, label, worse, origin))
    names = [[[BIO[tag] for tag in row] for row in rows] for rows in (label, said, worse)]
    change = record.metrics["entity_f1@change"]
    assert change.value == pytest.approx(of_entities(names[0], names[2]) - of_entities(*names[:2]), abs=1e-12)
    assert change.high < 0
    assert record.verdict is Verdict.BAD
    same = checked("entities", tagged_view(tmp_path / "same", BIO, label, said, origin))
    none = same.metrics["entity_f1@change"]
    assert same.verdict is Verdict.NOTED, "so few rows cannot say that less than a point was lost"
    assert none.low < 0 == none.value < none.high


def test_parts_of_speech_have_no_entities(tmp_path):
    label, said = sentences_of(20, classes=3)
    view = tagged_view(tmp_path / "v", ("NOUN", "VERB", "ADJ"), label, said)
    with pytest.raises(SkipError, match="'NOUN' is none"):
        checked("entities", view)
    accuracy = checked("accuracy", view)
    hits = np.concatenate(label) == np.concatenate(said)
    assert accuracy.metrics["accuracy"].value == pytest.approx(hits.mean())
    assert "words in 20 rows" in accuracy.summary
    wanted = f1_score(np.concatenate(label), np.concatenate(said), average="macro")
    assert accuracy.metrics["macro_f1"].value == pytest.approx(wanted)


def test_nothing_tagged_and_nothing_found_is_no_f1(tmp_path):
    label = [np.zeros(3, dtype=np.int64)] * 4
    with pytest.raises(SkipError, match="no entity is tagged, and none is found"):
        checked("entities", tagged_view(tmp_path / "v", BIO, label, label))


def slow_errors(rows: list[list[tuple[str, str]]]) -> dict[str, int]:
    """By sets of spans of seqeval, one row after the other: the best pair is taken first."""
    from seqeval.metrics.sequence_labeling import get_entities

    found = dict.fromkeys(KINDS, 0)
    for row in rows:
        tagged, said = (set(get_entities([pair[at] for pair in row])) for at in (0, 1))
        lost, wrong = tagged - said, said - tagged
        while True:
            best = None
            for one in sorted(lost, key=lambda span: span[1]):
                for two in sorted(wrong, key=lambda span: span[1]):
                    shared = len({*range(one[1], one[2] + 1)} & {*range(two[1], two[2] + 1)})
                    if not shared:
                        continue
                    kind = "type" if one[1:] == two[1:] else "boundary" if one[0] == two[0] else "both"
                    rank = (["type", "boundary", "both"].index(kind), -shared, one[1], two[1])
                    best = min(best, (rank, kind, one, two)) if best else (rank, kind, one, two)
            if not best:
                break
            found[best[1]] += 1
            lost.remove(best[2])
            wrong.remove(best[3])
        found["missed"] += len(lost)
        found["spurious"] += len(wrong)
    return found


@settings(max_examples=200)
@given(rows=rows_of(BIO))
def test_errors_of_entities_are_those_of_a_slow_twin(rows):
    scheme, there, found, sums = counts(BIO, rows)
    errors = errors_of(Entities(None, scheme, there, found, sums))
    assert {name: int(errors.of(name).sum()) for name in KINDS} == slow_errors(rows)
    hits = int(np.isin(found.keys, there.keys).sum())
    assert len(there) - hits == int((errors.there >= 0).sum())
    assert len(found) - hits == int((errors.found >= 0).sum())
    for at in range(len(errors)):
        owners = {int(spans.row[one]) for spans, one in _sides(errors, at, there, found) if one >= 0}
        assert owners == {int(errors.row[at])}


def _sides(errors, at, there, found):
    return (there, errors.there[at]), (found, errors.found[at])


def test_what_a_kind_of_error_costs_is_the_f1_without_it(tmp_path):
    """Found by writing the tags anew, and asking seqeval."""
    from seqeval.metrics import f1_score as of_entities

    label = [np.array(one) for one in ([0, 1, 2, 0, 3], [1, 2, 0, 0, 0], [0, 3, 4, 4, 0], [1, 0, 0, 3, 0])]
    said = [np.array(one) for one in ([0, 1, 2, 0, 0], [3, 4, 0, 0, 1], [0, 3, 4, 0, 0], [1, 0, 0, 3, 0])]
    mended = {
        "missed": {0: [0, 1, 2, 0, 3]},
        "spurious": {1: [3, 4, 0, 0, 0]},
        "type": {1: [1, 2, 0, 0, 1]},
        "boundary": {2: [0, 3, 4, 4, 0]},
        "both": {},
    }
    record = checked("entity-errors", tagged_view(tmp_path / "v", BIO, label, said))

    def f1(rows):
        return of_entities(
            [[BIO[tag] for tag in row] for row in label], [[BIO[tag] for tag in row] for row in rows]
        )

    for name, changed in mended.items():
        better = [changed.get(row, tags) for row, tags in enumerate(said)]
        cost = record.metrics[f"entity_f1_cost@{name}"]
        assert cost.value == pytest.approx(f1(better) - f1(said), abs=1e-12)
        assert cost.low <= cost.value <= cost.high
    confusions = next(table for table in record.tables if "confusions" in table.title)
    told = {row[:3]: row[3:] for row in confusions.rows}
    assert told["LOC", "none", "missed"] == (1, "r0", "word4", "", "word0 word1 word2 word3 word4")
    assert told["PER", "LOC", "type"] == (
        1,
        "r1",
        "word0 word1",
        "word0 word1",
        "word0 word1 word2 word3 word4",
    )
    assert told["LOC", "LOC", "boundary"][2:4] == ("word1 word2 word3", "word1 word2")


def test_a_tagger_without_errors_is_told_so(tmp_path):
    label, _ = sentences_of(30)
    record = checked("entity-errors", tagged_view(tmp_path / "v", BIO, label, label))
    assert record.verdict is Verdict.GOOD
    assert record.summary == "Every entity is found, and none where none is tagged."
    assert all(cost.value == 0 for cost in record.metrics.values())


def test_the_confusion_of_tags_is_scikit_learns(tmp_path):
    names = ("NOUN", "VERB", "ADJ")
    label, said = sentences_of(50, classes=3)
    record = checked("confusion", tagged_view(tmp_path / "v", names, label, said))
    truth, answer = np.concatenate(label), np.concatenate(said)
    matrix = confusion_matrix(truth, answer)
    classes, shares = record.tables
    assert shares.title == "Confusion of words"
    assert np.allclose([row[1:] for row in shares.rows], matrix / matrix.sum(axis=1, keepdims=True))
    told = classification_report(truth, answer, target_names=names, output_dict=True)
    for name, words, precision, low, high, recall, least, most, f1 in classes.rows:
        wanted = [told[name][key] for key in ("support", "precision", "recall", "f1-score")]
        assert [words, precision, recall, f1] == pytest.approx(wanted)
        assert low < precision < high
        assert least < recall < most
    wrong = matrix - np.diag(np.diag(matrix))
    here, there = np.unravel_index(wrong.argmax(), wrong.shape)
    first = record.findings[0]
    assert first.where == f"label = {names[here]} & prediction = {names[there]}"
    assert first.effect.value == pytest.approx(matrix[here, there] / matrix[here].sum())
    assert first.rows == sum(
        bool(((a == here) & (b == there)).any()) for a, b in zip(label, said, strict=True)
    )


CONLL = """-DOCSTART- -X- -X- O

# id 7
EU NNP B-NP B-ORG
# NN I-NP O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER


alone
"""
UNIVERSAL = """# text = vámonos now
1-2\tvámonos\t_\t_\t_
1\tvamos\tir\tVERB\t_
2\tnos\tnosotros\tPRON\t_
2.1\tgo\tgo\tVERB\t_
3\tNew York\tNew York\tPROPN\t_
"""


def test_files_of_words_and_tags_are_read(tmp_path):
    (tmp_path / "vocab.txt").write_text("<pad>\n<unk>\npeter\n")
    (tmp_path / "a.conll").write_text(CONLL)
    (tmp_path / "b.conllu").write_text(UNIVERSAL)
    vocabulary = str(tmp_path / "vocab.txt")
    rows = open_source(Data(str(tmp_path / "a.conll"), tokenizer=vocabulary)).read(np.arange(3))
    assert rows.inputs["tokens"] == [["EU", "#"], ["Peter", "Blackburn"]]
    assert [label.tolist() for label in rows.labels] == [["B-ORG", "O"], ["B-PER", "I-PER"]]
    assert dict(rows.broken) == {"2": "has a word without a tag ('alone', from line 11)"}
    rows = open_source(Data(str(tmp_path / "b.conllu"), tokenizer=vocabulary)).read(np.arange(1))
    assert rows.inputs["tokens"] == [["vamos", "nos", "New York"]]
    assert rows.labels[0].tolist() == ["VERB", "PRON", "PROPN"]
    (tmp_path / "c.bio").write_text("alone\nwords\n")
    with pytest.raises(InputError, match="has no tags: write a word, a blank and its tag"):
        open_source(Data(str(tmp_path / "c.bio"), tokenizer=vocabulary))


def test_a_table_of_texts_with_a_tag_before_each_blank(tmp_path):
    """As people keep them in a CSV file: nobody could tell them from a class, so it is asked for."""
    (tmp_path / "vocab.txt").write_text("<pad>\n<unk>\nin\nnew\nyork\n")
    (tmp_path / "rows.csv").write_text("text,label\nin New York,O B-LOC I-LOC\nin York,O B-LOC\n")
    data = Data(str(tmp_path / "rows.csv"), tokenizer=str(tmp_path / "vocab.txt"))
    piece = Feed.open(Split(data), ()).at(np.arange(2))
    output = np.zeros((2, 3, 5), np.float32)
    task, _ = guess_task(piece.rows.labels, {"out": output}, asked="tokens", classes=BIO)
    made = Tokens.columns(task, piece, {"out": output})
    assert made["label"].to_list() == [[0, 3, 4], [0, 3]]
    assert made["word"].to_list() == [["in", "New", "York"], ["in", "York"]]
    (tmp_path / "odd.csv").write_text("text,label\nin New York,O B-LOC\nin York,O B-LOC\n")
    data = Data(str(tmp_path / "odd.csv"), tokenizer=str(tmp_path / "vocab.txt"))
    piece = Feed.open(Split(data), ()).at(np.arange(2))
    with pytest.raises(InputError, match="Row '0' has 2 tags and 3 words between blanks"):
        Tokens.columns(task, piece, {"out": output})


def test_sentences_of_one_length_are_tagged_as_others_are(tmp_path):
    """Lists of numbers that are as long as the words are tags; others may be flags."""
    (tmp_path / "vocab.txt").write_text("<unk>\nin\n")
    for name, labels in (("tags", "[0, 3]"), ("flags", "[0, 1, 1]")):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"tokens": ["in", "York"], "label": {labels}}}\n' * 3)
        data = Data(str(tmp_path / f"{name}.jsonl"), tokenizer=str(tmp_path / "vocab.txt"))
        found = open_source(data).labels()
        assert found.shape == ((3,) if name == "tags" else (3, 3))
    tags = tags_of([[0, 3]] * 3)
    task, _ = guess_task(tags, {"out": np.zeros((3, 6, 5), np.float32)}, classes=BIO)
    assert (task.kind, task.class_axis) == ("tokens", -1)
