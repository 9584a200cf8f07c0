"""The settings of the configuration, as schemas/config.schema.json has them, under their names in the environment."""

import json
import re

import jsonschema_rs

import render

SCHEMA = json.loads((render.ROOT / "schemas/config.schema.json").read_text())
VARIABLE = re.compile(r"\bRIACHO__[A-Za-z0-9_]+")
# The usual names that the binary understands besides (crates/service/src/config/environment.rs).
USUAL = re.findall(r'\("([A-Z0-9_]+)", &\[', (render.ROOT / "crates/service/src/config/environment.rs").read_text())


def options(schema):
    """A schema and what it refers to or allows instead."""
    yield schema
    if "$ref" in schema:
        yield from options(SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")])
    for other in schema.get("anyOf", []):
        yield from options(other)


def child(schemas, key):
    found = [one["properties"][key] for one in schemas if key in one.get("properties", {})]
    found = found or [one["additionalProperties"] for one in schemas if isinstance(one.get("additionalProperties"), dict)]
    return list(options(found[0])) if found else None


def find(variable):
    """The schemas of a variable's key, and whether it names a file with the value; none if there is no such key."""
    at = list(options(SCHEMA))
    path = variable.removeprefix("RIACHO__").lower().split("__")
    for depth, key in enumerate(path):
        found = child(at, key)
        if found is None and depth + 1 == len(path) and key.endswith("_file"):
            secret = child(at, key.removesuffix("_file"))
            return (secret, True) if secret and any(one.get("format") == "password" for one in secret) else None
        if found is None:
            return None
        at = found
    return at, False


def problem(variable, value=None):
    """What is wrong with a setting; the value is looked at where it is known."""
    found = find(variable)
    if found is None:
        return f"{variable} is no setting"
    schemas, is_file = found
    if any("properties" in one for one in schemas):
        return f"{variable} is a section, and no setting"
    if value is None or is_file:
        return None
    takes_text = any("string" in (one.get("type"), *([] if isinstance(one.get("type"), str) else one.get("type") or []))
                     for one in schemas)
    parsed = value
    if not takes_text:
        try:
            parsed = json.loads(value)
        except ValueError:
            pass
    validator = jsonschema_rs.validator_for({**schemas[0], "$defs": SCHEMA["$defs"]}, offline=True)
    if not validator.is_valid(parsed):
        return f"{variable} cannot be {value!r}"
    return None
