"""The resolved recipe as text: what `hanforge render` prints, what Helm charts take, and what stays readable in a diff.

The text means the same to a YAML 1.1 parser (Helm's) as to ours: a string that only YAML 1.2 takes for one is quoted.
"""

import io
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from pipeline.recipe.models import Recipe, digest, rendered

# https://yaml.org/type/bool.html, int.html (0b11, 1_000, 1:30), float.html, null.html, merge.html, value.html
_NOT_TEXT_IN_YAML_1_1 = re.compile(r"(?i:y|n|yes|no|on|off|true|false|null)|[-+.]?[0-9].*|[-+]?\.(?i:inf|nan)|[~=]|<<|")


class _Representer(RoundTripRepresenter):
    def text(self, value: str) -> Any:
        quoted = _NOT_TEXT_IN_YAML_1_1.fullmatch(value)
        return self.represent_scalar("tag:yaml.org,2002:str", value, style='"' if quoted else None)


_Representer.add_representer(str, _Representer.text)


def document(recipe: Recipe) -> dict[str, Any]:
    """The rendered recipe with its `digest`, which run ids are made of and which an edit belies."""
    return {"digest": digest(recipe), **rendered(recipe)}


def text(recipe: Recipe) -> str:
    """`document` as YAML with every default written out."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.width = 120
    out = io.StringIO()
    yaml.dump(document(recipe), out)
    return out.getvalue()
