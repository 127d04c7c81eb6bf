"""Pickles are read from their opcodes; nothing that they name is ever called."""

import collections
import io
import os
import pickle
import pickletools
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from study.errors import InputError
from study.loading.allowed import allowed
from study.loading.pickles import UNREADABLE, contents_of, globals_of, refuse_objects
from study.loading.sniff import identify


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_every_global_that_torch_allows_is_allowed():
    from torch._weights_only_unpickler import _get_allowed_globals

    assert [name for name in _get_allowed_globals() if not allowed(name)] == []


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "torch.load", "torch.hub.load", "torch._utils._rebuild_anything",
     "torch.storage._load_from_bytes", "collections.OrderedDict.fromkeys", "torch.nn.modules.linear.Linear"],
)  # fmt: skip
def test_other_globals_are_not_allowed(name):
    assert not allowed(name)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_globals_are_found_in_every_protocol(protocol):
    thing = [
        collections.Counter("a"),
        collections.OrderedDict(a=np.float64(1)),
        {"again": collections.Counter},
    ]
    data = pickle.dumps(thing, protocol)

    found = globals_of(io.BytesIO(data))

    assert found == globals_that_loading_looks_up(data)
    assert "collections.Counter" in found


def globals_that_loading_looks_up(data: bytes) -> set[str]:
    """The plain twin: load it for real and write down what is looked up."""
    found = set()

    class Watching(pickle.Unpickler):
        def find_class(self, module, name):
            found.add(f"{module}.{name}")
            return super().find_class(module, name)

    Watching(io.BytesIO(data)).load()
    return found


def test_names_that_are_hidden_on_the_stack_are_not_taken_for_others():
    """'os', 'system' lie under two harmless strings, which are popped before the global is looked up."""
    hidden = b"".join(
        [b"\x80\x04"]
        + [b"\x8c" + bytes([len(word)]) + word for word in (b"os", b"system", b"collections", b"OrderedDict")]
        + [b"00", b"\x93", b"."]
    )

    assert globals_of(io.BytesIO(hidden)) == {UNREADABLE}
    assert not allowed(UNREADABLE)


def test_names_that_come_from_the_memo_are_followed():
    data = pickletools.optimize(pickle.dumps([collections.Counter, collections.OrderedDict], 4))

    assert globals_of(io.BytesIO(data)) == {"collections.Counter", "collections.OrderedDict"}


def test_a_module_of_the_legacy_format_is_read_past_its_header(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    with (tmp_path / "m.pt").open("rb") as file:
        found = contents_of(file)

    assert found.legacy
    assert found.root == "torch.nn.modules.linear.Linear"
    assert found.is_module


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x02", b"\x80\x02}q\x00(X\xff\xff\xff\x7f", b"abc", b"\xff" * 40]
)
def test_garbage_is_a_sentence(data):
    with pytest.raises(InputError, match="damaged or cut off"):
        globals_of(io.BytesIO(data))


def test_random_damage_is_a_sentence_or_globals():
    rng = np.random.default_rng(0)
    whole = pickle.dumps({"a": collections.OrderedDict(b=1), "c": [1.5, "text"]}, 2)
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        try:
            globals_of(io.BytesIO(bytes(data)))
        except InputError:
            continue


def tar_with(pickled: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        members = {"sys_info": {}, "storages": 0, "tensors": 0}
        whole = {name: pickle.dumps(thing, 2) for name, thing in members.items()} | {"pickle": pickled}
        for name, data in whole.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def zip_with(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def nested(data: bytes, times: int) -> bytes:
    for _ in range(times):
        data = zip_with({"inner": data})
    return data


def legacy(thing: object) -> bytes:
    stream = io.BytesIO()
    torch.save(thing, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def modern(thing: object) -> bytes:
    stream = io.BytesIO()
    torch.save(thing, stream)
    return stream.getvalue()


WRAPPINGS = {
    **{f"raw, protocol {p}": (lambda evil, p=p: pickle.dumps(evil, p)) for p in range(6)},
    "legacy": legacy,
    "zip of torch": modern,
    "under a key": lambda evil: modern({"state_dict": {"w": torch.ones(2)}, "extra": evil}),
    "legacy, under a key": lambda evil: legacy({"w": torch.ones(2), "extra": evil}),
    "tar": lambda evil: tar_with(pickle.dumps(evil, 2)),
    "plain zip": lambda evil: zip_with({"notes.txt": b"hello", "model.pkl": pickle.dumps(evil)}),
    "zip in a zip": lambda evil: zip_with({"inner/model.pt": modern(evil)}),
    "zip in a zip in a zip": lambda evil: nested(pickle.dumps(evil, 2), 3),
    "first of two members of one name": lambda evil: two_of_a_name(pickle.dumps(evil, 2)),
    "torch.export archive": lambda evil: exported_with(modern(evil)),
}  # fmt: skip


def two_of_a_name(pickled: bytes) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/data.pkl", pickle.dumps({}, 2))
    return stream.getvalue()


def exported_with(sample: bytes) -> bytes:
    """A sound torch.export archive but for its example inputs."""
    stream = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2).eval(), (torch.ones(1, 2),)), stream)
    with zipfile.ZipFile(stream) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    name = next(name for name in members if "sample_inputs" in name)
    return zip_with(members | {name: sample})


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_malicious_pickle_is_refused_by_name_and_never_run(tmp_path, wrapping):
    target = tmp_path / "made-by-the-pickle"
    path = tmp_path / "model.pt"
    path.write_bytes(WRAPPINGS[wrapping](Evil(target)))

    with pytest.raises(InputError, match="mkdir") as caught:
        identify(path)
    with pytest.raises(InputError, match="mkdir"):
        identify(path, arch="nobody:net")

    assert "--trust" in str(caught.value)
    assert str(caught.value).count("\n") == 0
    assert not target.exists()


def test_the_evil_is_evil(tmp_path):
    """Else the test above proves nothing."""
    pickle.loads(pickle.dumps(Evil(tmp_path / "made")))
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("save", [np.save, np.savez])
def test_objects_in_arrays_are_refused_by_name(tmp_path, save):
    path = tmp_path / ("a.npy" if save is np.save else "a.npz")
    target = tmp_path / "made"
    save(path, np.array([Evil(target), 1], dtype=object), allow_pickle=True)

    with pytest.raises(InputError, match="mkdir"):
        refuse_objects(path)
    assert not target.exists()


@pytest.mark.parametrize("save", [np.save, np.savez])
def test_arrays_of_numbers_and_text_pass(tmp_path, save):
    path = tmp_path / ("a.npy" if save is np.save else "a.npz")
    save(path, np.array(["a", "bc"]))
    refuse_objects(path)


def test_the_magic_number_is_that_of_torch():
    from torch.serialization import MAGIC_NUMBER

    from study.loading.pickles import _LEGACY_MAGIC

    assert MAGIC_NUMBER == _LEGACY_MAGIC
