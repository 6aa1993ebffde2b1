"""A griffe extension: fields of dataclasses on the pages of the reference.

The help in a field's metadata becomes its text, and the page shows its default instead of the call.
"""

import ast
from typing import Any

import griffe


class HelpOfFields(griffe.Extension):
    """Reads the help from the source, since modules are not imported."""

    def on_attribute_instance(
        self, *, node: ast.AST | griffe.ObjectNode, attr: griffe.Attribute, **kwargs: Any
    ) -> None:
        """Describe an attribute that is field(default=..., metadata={"help": ...})."""
        value = getattr(node, "value", None)
        if not (isinstance(value, ast.Call) and getattr(value.func, "id", None) == "field"):
            return
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        text = _help(given.get("metadata"))
        if text is None:
            return
        attr.docstring = griffe.Docstring(text, parent=attr)
        if "default" in given:
            attr.value = ast.unparse(given["default"])


def _help(metadata: ast.expr | None) -> str | None:
    if not isinstance(metadata, ast.Dict):
        return None
    for key, value in zip(metadata.keys, metadata.values, strict=True):
        # Options of commands, which are on no page, have texts that are made of several.
        if isinstance(key, ast.Constant) and key.value == "help":
            return str(value.value) if isinstance(value, ast.Constant) else None
    return None
