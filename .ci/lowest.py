"""Print `name==version` for every lower bound of pyproject.toml: what minitxl needs, what tests do.

As requirements they install exactly the oldest versions that pyproject.toml promises to work.
"""

import re
import tomllib
from pathlib import Path

BOUND = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+)")
project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in (*project["dependencies"], *project["optional-dependencies"]["test"]):
    name, version = BOUND.match(requirement).groups()
    print(f"{name}=={version}")
