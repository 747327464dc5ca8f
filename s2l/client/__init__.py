"""The client library under the name of the command: `from s2l.client import Client, Context`.

It is `serving.client`, and nothing of its own. There is no `s2l/__init__.py`, so that code which others generate from
`s2l/v1/*.proto` may live under the same name.
"""

from serving.client import *  # noqa: F403
from serving.client import __all__ as __all__
