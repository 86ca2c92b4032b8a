"""The options of ``tandem train FAMILY``: typed, with defaults from the family's recipe.

Every option belongs to one dataclass: the run's own here, the family's config, and those of
data, loop, augmentation and deployment. On the command line they are one flat list.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import tyro

from policies.augment import AugmentOptions
from policies.dataset import DataOptions
from policies.deployment import DeployOptions
from policies.family import FamilyConfig
from policies.loop import LoopOptions
from policies.registry import FAMILIES, load_family
from teleop.errors import PolicyError, UnknownNameError

C = TypeVar("C", bound=FamilyConfig)

PARTS = ("model", "rows", "loop", "augment", "deployment")
"""Fields of ``TrainArgs`` whose own fields are options."""

PLAIN = (
    (
        r"^Error parsing (--\S+): invalid literal for int\(\) with base 10: (.*)$",
        r"\1 \2: not a whole number",
    ),
    (r"^Error parsing (--\S+): could not convert string to float: (.*)$", r"\1 \2: not a number"),
    (r"^Error parsing (--\S+): .*\[(.*)\].*$", r"\1 \2: not of the kind that it takes"),
    (r"^Missing value for argument '(--\S+)'. Expected 1 values.$", r"\1 needs a value"),
    (r"^Missing value for argument '(--\S+)'. Expected (\d+) values.$", r"\1 needs \2 values"),
    (
        r"^invalid choice (.*) for argument '(--\S+)'. Expected one of \((.*)\).$",
        r"\2 \1: not one of \3",
    ),
)
"""tyro's complaints as patterns, and plainer words for them."""


@dataclass(frozen=True)
class TrainArgs(Generic[C]):
    """Train a policy on recorded episodes."""

    data: tuple[str, ...]
    """Folders of episode files; DIR=WEIGHT draws from one more or less often than others."""
    out: Path
    """Folder for the trained policy."""
    model: tyro.conf.OmitArgPrefixes[C]
    rows: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    loop: tyro.conf.OmitArgPrefixes[LoopOptions] = field(default_factory=LoopOptions)
    augment: tyro.conf.OmitArgPrefixes[AugmentOptions] = field(default_factory=AugmentOptions)
    deployment: tyro.conf.OmitArgPrefixes[DeployOptions] = field(default_factory=DeployOptions)
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    encoder_weights: Path | None = None
    """File with pretrained weights of the ResNet-18 (.safetensors or .pth); keeps its norms."""
    track: tuple[str, ...] = ("tensorboard",)
    """Where the curve goes while training: names of Accelerate's trackers."""
    overwrite: bool = False
    """Replace the policy that the folder already holds."""
    resume: bool = False
    """Go on with the run of this folder, exactly where its last save left it; repeat the same
    options."""
    dry_run: bool = False
    """Say what would be trained on, and stop."""


def recipe_args(family: str, data: tuple[str, ...], out: Path, **options: Any) -> TrainArgs[Any]:
    """The options of a run from code: the family's recipe, changed by flat names.

    Args:
        family: A name of ``policies.registry``.
        data: See ``TrainArgs``.
        out: See ``TrainArgs``.
        options: By the names of the command line, with underscores.

    Raises:
        UnknownNameError: no such family or option.
        PolicyError: an option of the family bears the name of one of the trainer's.
    """
    network = load_family(family)
    args = TrainArgs[Any](data, out, network.config_type())
    _check_names(family, args)
    recipe = dict(network.recipe)
    args = _changed(args, {name: v for name, v in recipe.items() if name != "deployment"})
    chunk_rows = options.get("chunk_rows", args.rows.chunk_rows)
    args = replace(args, deployment=_deployment(recipe.get("deployment"), chunk_rows))
    return _changed(args, options)


def parse(family: str, argv: Sequence[str]) -> TrainArgs[Any]:
    """The options of a run from the command line.

    Raises:
        PolicyError: an option that is missing, unknown or has a value of the wrong kind.
        SystemExit: after ``--help``.
    """
    _check_required(family, argv)
    default = recipe_args(family, tyro.MISSING, tyro.MISSING)
    args = _parse(family, argv, default)
    if args.rows.chunk_rows != default.rows.chunk_rows:  # deployment's defaults depend on it
        rows = args.rows.chunk_rows
        deployment = _deployment(load_family(family).recipe.get("deployment"), rows)
        args = _parse(family, argv, replace(default, deployment=deployment))
    if args.rows.cameras is None:
        return args
    cameras = tuple(name for names in args.rows.cameras for name in names.split(","))
    return replace(args, rows=replace(args.rows, cameras=cameras))


def family_list() -> str:
    """Each family with the first line of its file's docstring, without importing it."""
    width = max(len(name) for name in FAMILIES)
    lines = [f"  {name:{width}}  {_first_line(name)}" for name in FAMILIES]
    return "\n".join(["policy families:", *lines, "", "tandem train FAMILY --help: its options"])


def option_names(args: TrainArgs[Any]) -> list[str]:
    """All options in their order, flat."""
    own = [option.name for option in fields(args) if option.name not in PARTS]
    return own + [o.name for part in PARTS for o in fields(getattr(args, part))]


def _changed(args: TrainArgs[Any], options: Mapping[str, Any]) -> TrainArgs[Any]:
    """The arguments with some options changed, each in the dataclass it belongs to."""
    unknown = [name for name in options if name not in option_names(args)]
    if unknown:
        raise UnknownNameError("training option", unknown[0], option_names(args))
    for part in PARTS:
        value = getattr(args, part)
        own = {o.name: options[o.name] for o in fields(value) if o.name in options}
        args = replace(args, **{part: replace(value, **own)})
    own = {o.name: options[o.name] for o in fields(args) if o.name in options}
    return replace(args, **own)


def _check_names(family: str, args: TrainArgs[Any]) -> None:
    """Raises PolicyError when an option of the family would be told from another by nothing."""
    own = {option.name for option in fields(args)}
    others = own.union(o.name for part in PARTS[1:] for o in fields(getattr(args, part)))
    for option in fields(args.model):
        if option.name in others:
            raise PolicyError(
                f"the options of {family} have a field {option.name!r}, which is the name of an "
                f"option of the trainer; call it otherwise in {type(args.model).__name__}"
            )


def _deployment(recipe: DeployOptions | None, chunk_rows: int) -> DeployOptions:
    """The recipe's, as far as the chunks are long enough for it."""
    if recipe is None or chunk_rows == 1:
        return DeployOptions.for_chunk(chunk_rows)
    return replace(recipe, replan_rows=min(recipe.replan_rows, chunk_rows))


def _check_required(family: str, argv: Sequence[str]) -> None:
    """Raises PolicyError when --data or --out is missing, or --data is there twice."""
    given = [word.partition("=")[0] for word in argv]
    if {"-h", "--help"} & set(given):
        return
    if given.count("--data") > 1:
        raise PolicyError("--data is given more than once; name all folders after one: --data A B")
    for name, what in (("--data", "the folder of the episodes"), ("--out", "a new folder")):
        if name not in given:
            raise PolicyError(
                f"tandem train {family} needs {name}; add {name} DIR, {what}; "
                f"see tandem train {family} --help"
            )


def _parse(family: str, argv: Sequence[str], default: TrainArgs[Any]) -> TrainArgs[Any]:
    config_type: Any = load_family(family).config_type
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed: tuple[TrainArgs[Any], list[str]] = tyro.cli(
                TrainArgs[config_type],
                prog=f"tandem train {family}",
                args=list(argv),
                default=default,
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise PolicyError(_sentence(family, complaint.getvalue())) from None
    args, unknown = parsed
    if unknown:
        known = [f"--{name.replace('_', '-')}" for name in option_names(args)]
        raise UnknownNameError(f"option of tandem train {family}", unknown[0], known)
    return args


def _sentence(family: str, box: str) -> str:
    """The first paragraph of tyro's framed complaint."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()]
    first = [line for line in lines[1:] if line]
    if "" in lines[1:]:
        first = [line for line in lines[1 : lines.index("", 1)] if line]
    text = " ".join(first)
    for pattern, words in PLAIN:
        text = re.sub(pattern, words, text)
    return f"{text.rstrip('.')}; see tandem train {family} --help"


def _first_line(family: str) -> str:
    spec = importlib.util.find_spec(FAMILIES[family].partition(":")[0])
    if spec is None or spec.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")
