"""The examples of `docs/python.md`, run one after the other in one program, with a daemon that has just
been started for it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import unittest
from typing import Any, Dict
from unittest import mock

import nkv
from support import ROOT, Daemon

GUIDES = [ROOT / "docs" / "python.md", ROOT / "clients" / "python" / "README.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Guide(unittest.TestCase):
    def test_examples(self) -> None:
        for guide in GUIDES:
            text = guide.read_text()
            examples = list(BLOCK.finditer(text))
            self.assertTrue(examples, guide)
            with Daemon() as daemon, mock.patch.dict(os.environ, {"NKV_ADDRESS": daemon.socket}):
                names: Dict[str, Any] = {}
                for example in examples:
                    # The line of the document is the line of the error.
                    before = text.count("\n", 0, example.start(1))
                    code = compile("\n" * before + example[1], str(guide), "exec")
                    with contextlib.redirect_stdout(io.StringIO()):
                        exec(code, names)
                    if names["link"]._within._is_closed:
                        exec("link = nkv.Link()", names)
                names["link"].close()

    def test_whatever_is_exported_has_its_text(self) -> None:
        for name in set(nkv.__all__) - {"Change", "Event"}:
            found = getattr(nkv, name)
            self.assertTrue(found.__doc__, name)
            for member, value in vars(found).items():
                if callable(value) and not member.startswith("_") and isinstance(found, type):
                    self.assertTrue(value.__doc__, f"{name}.{member}")


if __name__ == "__main__":
    unittest.main()
