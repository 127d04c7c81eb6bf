"""Code of the user: found where they stand, and what goes wrong in it told with their line."""

import sys

import pytest
import torch
from torch import nn

from study.errors import InputError
from study.loading.factory import build_module, call_factory, import_attribute

CODE = """
import sys
from torch import nn

def build(width=3):
    print("hello from the factory")
    return nn.Linear(width, 2)

def fails():
    inner = 1
    raise ValueError("no weights here")

def leaves():
    sys.exit("bye")

def interrupted():
    raise KeyboardInterrupt

def random():
    import torch
    return nn.Linear(2, 2)

def number():
    return 4

def nothing():
    pass

class Rows:
    pass

TABLE = [1, 2]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in a folder with ``their_code.py``; imports and the search path are put back afterwards."""
    (tmp_path / "their_code.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("their_", "half_")):
            del sys.modules[name]


def test_the_users_folder_is_appended_and_never_goes_first(folder):
    (folder / "json.py").write_text("raise SystemExit('shadowed')\n")
    build_module("their_code:build")
    assert sys.path[-1] == str(folder)
    assert sys.path.count(str(folder)) == 1
    build_module("their_code:build")
    assert sys.path.count(str(folder)) == 1


def test_arguments_reach_the_factory_and_its_words_do_not_reach_stdout(folder, capsys):
    module = build_module("their_code:build", '{"width": 5}')
    assert isinstance(module, nn.Linear)
    assert module.in_features == 5
    told = capsys.readouterr()
    assert told.out == ""
    assert "hello from the factory" in told.err


def test_a_module_is_built_with_the_same_random_numbers_each_time(folder):
    one, two = build_module("their_code:random"), build_module("their_code:random")
    assert torch.equal(one.weight, two.weight)


def test_what_is_no_module_may_come_out_of_other_factories(folder):
    assert call_factory("their_code:number", what="--data") == 4
    assert call_factory("their_code:TABLE") == [1, 2]
    assert isinstance(call_factory("their_code:Rows"), import_attribute("their_code:Rows"))


WRONG = {
    "their_code": "is not module:name",
    ":build": "is not module:name",
    "their_code.py:build": "type --arch their_code:build",
    "./nets/their_code.py:build": "type --arch nets.their_code:build",
    "no_such_module:build": r"ModuleNotFoundError: No module named 'no_such_module'",
    "their_code:biuld": r"no 'biuld' in their_code\. Did you mean 'build'\?",
    "their_code:fails": r"ValueError: no weights here \(their_code\.py:11\)",
    "their_code:leaves": r"SystemExit: bye \(their_code\.py:14\)",
    "their_code:number": "gave a int, not a torch.nn.Module",
    "their_code:nothing": "gave nothing, not a torch.nn.Module",
}


@pytest.mark.parametrize("spec", WRONG)
def test_what_goes_wrong_is_one_sentence(folder, spec):
    with pytest.raises(InputError, match=WRONG[spec]) as caught:
        build_module(spec)
    assert "\n" not in str(caught.value)


def test_a_module_with_a_mistake_is_named_with_its_line(folder):
    (folder / "half_written.py").write_text("a = 1\nb = (\n")
    (folder / "half_right.py").write_text("import half_written_not\n")
    with pytest.raises(InputError, match=r"SyntaxError.*\(half_written\.py:2\)"):
        build_module("half_written:build")
    with pytest.raises(InputError, match=r"No module named 'half_written_not' \(half_right\.py:1\)"):
        build_module("half_right:build")


@pytest.mark.parametrize("arguments", ["{width: 3}", "[3]", "3", '{"depth": 20}'])
def test_arguments_that_are_wrong(folder, arguments):
    with pytest.raises(InputError, match=r"no JSON|unexpected keyword argument .depth."):
        build_module("their_code:build", arguments)


def test_an_interrupt_is_no_mistake_of_the_factory(folder):
    with pytest.raises(KeyboardInterrupt):
        build_module("their_code:interrupted")


@pytest.mark.parametrize("shadow", ["study.py", "export/__init__.py"])
def test_a_module_with_one_of_our_names_is_told(folder, shadow):
    (folder / shadow).parent.mkdir(exist_ok=True)
    (folder / shadow).write_text("")
    with pytest.raises(
        InputError, match="has the name of a part of diag, so it cannot be imported: rename it"
    ):
        build_module("their_code:build")


def test_a_folder_of_data_with_one_of_our_names_is_none_of_our_business(folder):
    (folder / "export").mkdir()
    (folder / "export" / "model.onnx").write_bytes(b"")
    build_module("their_code:build")
