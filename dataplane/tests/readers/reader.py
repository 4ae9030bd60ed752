"""Reads request targets, one a line, with urllib. Writes for each the decoded and resolved path in hexadecimal, once read as
it is and once behind a host."""

import posixpath
import sys
from urllib.parse import unquote_to_bytes, urlsplit

for line in sys.stdin:
    target = line.rstrip("\n")
    paths = (unquote_to_bytes(urlsplit(text).path) for text in (target, "http://host" + target))
    print(*(posixpath.normpath(path).hex() for path in paths), flush=True)
