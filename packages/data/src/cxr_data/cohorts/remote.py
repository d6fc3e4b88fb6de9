"""Files below a URL, read and written through fsspec; what goes wrong there is said in one message.

s3:// needs the package s3fs, gs:// gcsfs; file:// and memory:// need nothing. Each finds its credentials and options as
it always does: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on, or fsspec's own files of configuration.
"""

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cxr_data.errors import BadInput
from cxr_data.files import whole_file

WAITS = (1.0, 5.0)
"""Seconds before a second and a third try of reading what could not be read or arrived damaged."""
T = TypeVar("T")


def is_url(data: str | Path) -> bool:
    """Whether a data name is a URL ("s3://bucket/cohort", "file:///data/cohort")."""
    return bool(re.match(r"[A-Za-z][\w+.-]*:(:|//)", str(data)))


class Remote:
    """A folder at a URL.

    Args:
        url: Of any file system that fsspec knows.

    Raises:
        BadInput: No such file system, or its package is not installed.
    """

    def __init__(self, url: str):
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        # One file system for all threads: fsspec would give each its own, with connections of its own.
        self.fs, self.path = self._explained(lambda: url_to_fs(self.url), self.url)

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            BadInput: There is none, it may not be read, or the connection failed.
        """
        where = f"{self.url}/{name}"
        return self._explained(lambda: self.fs.cat_file(f"{self.path}/{name}"), where)

    def exists(self, name: str) -> bool:
        """Whether there is such a file.

        Raises:
            BadInput: That cannot be found out.
        """
        return bool(self._explained(lambda: self.fs.exists(f"{self.path}/{name}"), f"{self.url}/{name}"))

    def read_checked(self, name: str, size: int, sha256: str) -> bytes:
        """The bytes of a file that must be what was uploaded; failures and damage are tried again a few times.

        Args:
            name: The file.
            size: Its bytes.
            sha256: Their SHA-256.

        Raises:
            BadInput: As :meth:`read`, or other bytes.
        """
        for wait in (*WAITS, None):
            try:
                content = self.read(name)
                if hashlib.sha256(content).hexdigest() == sha256:
                    return content
                wrong = f"{len(content):,} bytes" if len(content) != size else f"{size:,} other bytes"
                do = "upload the cohort again; the file is damaged, or was written over"
                problem = BadInput(f"{size:,} bytes of SHA-256 {sha256[:12]}", wrong, where=f"{self.url}/{name}", do=do)
            except _Failed as error:
                problem = error
            if wait is None:
                raise problem
            time.sleep(wait)
        raise AssertionError

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all.

        Raises:
            BadInput: It cannot be written.
        """
        path = f"{self.path}/{name}"
        if "file" in ([self.fs.protocol] if isinstance(self.fs.protocol, str) else self.fs.protocol):
            with whole_file(path) as file:
                file.write(content)
        else:  # an object appears once all of it has arrived
            self._explained(lambda: self.fs.pipe_file(path, content), f"{self.url}/{name}")

    def remove(self, name: str) -> None:
        """Remove a file.

        Raises:
            BadInput: It cannot be removed.
        """
        self._explained(lambda: self.fs.rm_file(f"{self.path}/{name}"), f"{self.url}/{name}")

    def _explained(self, call: Callable[[], T], where: str) -> T:
        try:
            return call()
        except FileNotFoundError as error:
            do = "check the address; an upload that was interrupted is begun again with `cxr-data upload`"
            raise BadInput("a cohort uploaded with `cxr-data upload`", "no such file", where=where, do=do) from error
        except ImportError as error:
            scheme = where.partition(":")[0]
            raise BadInput(f"the package that reads {scheme}:// addresses", str(error), where=where) from error
        except Exception as error:  # each file system raises kinds of its own
            if isinstance(error, ValueError) and "rotocol" in str(error):
                do = "check the spelling, as in s3://, gs:// or file://"
                raise BadInput("an address that fsspec knows", str(error), where=where, do=do) from error
            said = f"{type(error).__name__}: {error}".strip(": ").splitlines()[0]
            if isinstance(error, PermissionError) or "credential" in said.lower():
                do = "give credentials as the store's own tools take them (AWS_ACCESS_KEY_ID, ...)"
                raise BadInput("credentials that open this address", said, where=where, do=do) from error
            do = "check the connection and the address; the same command resumes"
            raise _Failed("an answer from the store", said, where=where, do=do) from error


class _Failed(BadInput):
    """A failure that may be over in a second."""
