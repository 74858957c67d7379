"""Reads the templates."""

import pathlib

import yaml

FOLDER = pathlib.Path("cloudformation")


class Loader(yaml.SafeLoader):
    """Reads the short forms of CloudFormation's functions as {"Fn::Name": arguments}."""


def function(loader, suffix, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


Loader.add_multi_constructor("!", function)


def texts():
    """The text of each template, by name without suffix."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml"))}


def templates():
    """Each template, by name without suffix."""
    return {name: yaml.load(text, Loader) for name, text in texts().items()}


def listed(value):
    return value if isinstance(value, list) else [value]
