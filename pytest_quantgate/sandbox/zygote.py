"""The fork-server's own program, started as `python -P -s -S -B zygote.py`; nobody imports it.

Its package is the parent's, but importing that would bring in pytest and numpy. So the packages above this
folder are stand-ins here, through which only the sandbox's own light modules are found.
"""

from __future__ import annotations

import json
import sys
from types import ModuleType

if __name__ == "__main__":
    sandbox = __file__.rpartition("/")[0]
    for name, folder in (
        ("pytest_quantgate", sandbox.rpartition("/")[0]),
        ("pytest_quantgate.sandbox", sandbox),
    ):
        package = ModuleType(name)
        package.__path__ = [folder]
        sys.modules[name] = package
    from pytest_quantgate.sandbox import building

    building.build(json.loads(sys.argv[1]))
