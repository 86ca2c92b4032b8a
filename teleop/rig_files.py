"""Reading ``hardware.yaml``: YAML, ``extends``, Interbotix motor files, then validation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from teleop.errors import RigError
from teleop.interbotix import arm_model_from_motor_config
from teleop.rig import Rig
from teleop.rig_checks import faults_of

DEFAULT_RIG = "hardware.yaml"
MAX_EXTENDS = 5
FILES = (
    ("arm_models", "*", "motor_config"),
    ("arm_models", "*", "kinematics"),
    ("inputs", "*", "password_file"),
    ("webxr", "certificate"),
    ("webxr", "key"),
    ("network", "security", "key_dir"),
)
"""Where a rig file names other files."""
TAGGED = ("arm_models", "arms", "inputs")
"""Parts of a rig whose entries are of several kinds, told apart by their driver."""


def load_rig(path: Path | str) -> Rig:
    """Read and validate a rig file.

    Raises:
        RigError: the file is absent, not YAML, or has faults; all of them are listed.
    """
    path = Path(path)
    tree = _merged_tree(path, ())
    faults = _expand_motor_configs(tree)
    if "backend" in tree:
        faults.append("backend: not for the file; it is set by --emulate and --lockstep")
    if faults:
        raise RigError(str(path), faults)
    return rig_from_tree(tree, str(path))


def rig_from_tree(tree: dict[str, Any], source: str) -> Rig:
    """Validate a rig given as plain mappings; ``source`` names it in errors.

    Raises:
        RigError: with every fault.
    """
    try:
        rig = Rig.model_validate(tree)
    except ValidationError as error:
        raise RigError(source, _readable(error)) from None
    if faults := faults_of(rig):
        raise RigError(source, faults)
    return rig


def _merged_tree(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    if len(extended_by) > MAX_EXTENDS:
        raise RigError(str(path), [f"extends: over {MAX_EXTENDS} files deep; is it a circle?"])
    try:
        tree = _read(path)
    except FileNotFoundError:
        if extended_by:
            seen = f"extends: no such file {path}; name one relative to this file's folder"
            raise RigError(str(extended_by[-1]), [seen]) from None
        raise RigError(str(path), ["no such file; name one with --hardware"]) from None
    parent = tree.pop("extends", None)
    _root_paths(tree, path.parent.resolve())
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise RigError(str(path), [f"extends: expected one file's name, found {parent!r}"])
    return _merge(_merged_tree(path.parent / parent, (*extended_by, path)), tree)


def _read(path: Path) -> dict[str, Any]:
    """The content of one file.

    Raises:
        FileNotFoundError: there is none.
        RigError: it cannot be read, is not YAML, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        repeated = list(_repeated_keys(node, ""))
        tree = None if node is None else loader.construct_document(node)
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise RigError(str(path), [f"cannot be read: {error}"]) from None
    except yaml.YAMLError as error:
        raise RigError(str(path), [f"not YAML: {' '.join(str(error).split())}"]) from None
    if repeated:
        raise RigError(str(path), repeated)
    if not isinstance(tree, dict):
        raise RigError(str(path), [f"expected a mapping at the top, found {type(tree).__name__}"])
    return tree


def _repeated_keys(node: yaml.Node | None, path: str) -> Iterator[str]:
    """Keys that a mapping gives twice: YAML readers take the last without a word."""
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _repeated_keys(item, f"{path}{i}.")
    elif isinstance(node, yaml.MappingNode):
        line_of: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in line_of:
                yield f"{path}{name}: given twice, in lines {line_of[name]} and {line}"
            line_of[name] = line
            yield from _repeated_keys(value, f"{path}{name}.")


def _root_paths(tree: dict[str, Any], folder: Path) -> None:
    """Files that a rig file names lie relative to it, wherever a command is called."""
    for *parts, last in FILES:
        owners = [tree]
        for part in parts:
            inner = [o.values() if part == "*" else [o.get(part)] for o in owners]
            owners = [value for values in inner for value in values if isinstance(value, dict)]
        for owner in owners:
            name = owner.get(last)
            if isinstance(name, str) and (last != "kinematics" or name.endswith(".xml")):
                owner[last] = str(folder / Path(name).expanduser())


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if value is None and key in merged:
            del merged[key]
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _expand_motor_configs(tree: dict[str, Any]) -> list[str]:
    """Replace ``arm_models.*.motor_config: FILE`` by the servos that file lists."""
    faults: list[str] = []
    models = tree.get("arm_models")
    if not isinstance(models, dict):
        return faults
    for name, model in models.items():
        if not isinstance(model, dict) or "motor_config" not in model:
            continue
        own = {k: v for k, v in model.items() if k != "motor_config"}
        try:
            read = arm_model_from_motor_config(Path(str(model["motor_config"])), own)
        except RigError as error:
            faults += [f"arm_models.{name}.motor_config: {fault}" for fault in error.faults]
        else:
            models[name] = _merge(read, own)
    return faults


def _readable(error: ValidationError) -> list[str]:
    faults: list[str] = []
    for item in error.errors():
        loc = list(item["loc"])
        if loc and loc[0] in TAGGED and len(loc) > 2:
            del loc[2]  # The driver, by which pydantic has chosen the kind.
        path = ".".join(str(part) for part in loc) or "(top)"
        if item["type"] == "extra_forbidden":
            faults.append(f"{path}: unknown key")
        elif item["type"] == "missing":
            faults.append(f"{path}: missing")
        elif item["input"] is None:
            faults.append(
                f"{path}: null, and `extends` gives nothing of that name to remove; correct the "
                "name, or give a value"
            )
        elif item["type"] == "union_tag_invalid":
            seen, known = item["ctx"]["tag"], item["ctx"]["expected_tags"].replace("'", "")
            faults.append(f"{path}.driver: no driver {seen!r}; known: {known}")
        elif item["type"] == "union_tag_not_found" and isinstance(item["input"], dict):
            faults.append(f"{path}.driver: missing")
        elif item["type"] == "union_tag_not_found":
            faults.append(f"{path}: expected a mapping, got {_short(item['input'])}")
        else:
            faults.append(f"{path}: {item['msg']}, got {_short(item['input'])}")
    return faults


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
