"""The types of the native module are those that its file of types says."""

import ast
import inspect
from pathlib import Path

import bagdot
from bagdot import _bagdot


def test_every_name_has_types():
    tree = ast.parse(Path(bagdot.__file__).with_name("_bagdot.pyi").read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    names = {name for name in dir(_bagdot) if not name.startswith("__")}
    assert names == functions.keys() | classes.keys() - {"SupportsDLPack"}
    for name, node in functions.items():
        typed = [argument.arg for argument in node.args.args + node.args.kwonlyargs]
        assert typed == list(inspect.signature(getattr(_bagdot, name)).parameters), name
    for name in classes.keys() - {"SupportsDLPack"}:
        of_class = getattr(_bagdot, name)
        public = {method for method in vars(of_class) if not method.startswith("_")}
        typed = {node.name for node in classes[name].body if isinstance(node, ast.FunctionDef)}
        assert public <= typed, name
