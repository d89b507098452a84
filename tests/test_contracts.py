"""Every public class and function, found by inspection, keeps the house's promises."""

import dataclasses
import importlib
import inspect
import pathlib
import pkgutil

import pytest

import pyrovae

MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(pyrovae.__path__, "pyrovae.")
    if not found.name.startswith("pyrovae.cli")
]


def public_objects():
    """Public classes and functions of every room, each once, under the module that defines it."""
    found = {}
    for module in MODULES:
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value) or inspect.isfunction(value):
                found[f"{module.__name__}.{name}"] = value
    return found


def is_record(value):
    """A class whose fields speak for themselves: a dataclass, a named tuple, or what one function alone makes."""
    if not inspect.isclass(value):
        return False
    return dataclasses.is_dataclass(value) or issubclass(value, tuple) or "made by :func:`" in (value.__doc__ or "")


OBJECTS = public_objects()
ROOMS = [value for name in pyrovae.__all__ if inspect.ismodule(value := getattr(pyrovae, name))]
NAMES = [*pyrovae.__all__, *pathlib.Path(__file__).with_name("names_before.txt").read_text().split()]
HOMES = {name: home for name in NAMES for home in (pyrovae, *ROOMS) if hasattr(home, name)}
PUBLIC = {name: value for name, home in HOMES.items() if not inspect.ismodule(value := getattr(home, name))}
"""The names on top, and those that were there and live in a room now."""


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_it_is_documented_and_annotated(name):
    value = OBJECTS[name]
    assert inspect.getdoc(value), f"{name} has no docstring"
    functions = [value] if inspect.isfunction(value) else [m for m in vars(value).values() if inspect.isfunction(m)]
    for function in functions:
        if function.__name__.startswith("_") or function.__module__ != value.__module__:
            continue
        signature = inspect.signature(function)
        for argument in list(signature.parameters.values())[0 if inspect.isfunction(value) else 1 :]:
            assert argument.annotation is not inspect.Parameter.empty, f"{name}.{function.__name__}({argument.name})"
        assert signature.return_annotation is not inspect.Signature.empty, f"{name}.{function.__name__} -> ?"


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_shows_an_example(name):
    """Results and settings, which are records, are shown by the functions that make and take them."""
    if is_record(PUBLIC[name]) or inspect.isabstract(PUBLIC[name]):
        return
    assert ">>>" in inspect.getdoc(PUBLIC[name]), f"pyrovae.{name} has no example in its docstring"


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_callable_names_its_arguments(name):
    value = PUBLIC[name]
    if is_record(value) or not inspect.getmodule(value).__name__.startswith("pyrovae"):
        return
    target = value.__init__ if inspect.isclass(value) else value
    documented = inspect.getdoc(value)
    for argument in inspect.signature(target).parameters.values():
        if argument.name in ("self", "args", "kwargs", "validate_args") or argument.kind is argument.VAR_POSITIONAL:
            continue  # validate_args is the argument of every torch distribution
        assert argument.name in documented, f"pyrovae.{name} does not document {argument.name!r}"


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_no_argument_has_a_mutable_default(name):
    value = OBJECTS[name]
    target = value.__init__ if inspect.isclass(value) else value
    if not inspect.isfunction(target):
        return
    for argument in inspect.signature(target).parameters.values():
        assert not isinstance(argument.default, (list, dict, set)), f"{name}({argument.name})"
