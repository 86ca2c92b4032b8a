"""The policy families by name. Adding one is one file and one line here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from teleop.errors import UnknownNameError

if TYPE_CHECKING:
    from policies.family import Family

FAMILIES: dict[str, str] = {
    "bc": "policies.bc:BcNet",
    "gmm": "policies.gmm:GmmNet",
    "bc-rnn-gmm": "policies.rnn_gmm:RnnGmmNet",
    "bins": "policies.bins:BinsNet",
    "act": "policies.act:ActNet",
    "diffusion": "policies.diffusion:DiffusionNet",
    "flow": "policies.flow:FlowNet",
    "ibc": "policies.ibc:IbcNet",
}
"""Family name to ``module:class``; the class is a ``policies.family.Family``."""


def load_family(name: str) -> type[Family]:
    """The network class of a family; imports torch.

    Raises:
        UnknownNameError: no family has this name.
    """
    if name not in FAMILIES:
        raise UnknownNameError("policy family", name, FAMILIES)
    module, _, attribute = FAMILIES[name].partition(":")
    return cast("type[Family]", getattr(importlib.import_module(module), attribute))
