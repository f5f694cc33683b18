"""Landlock: the kernel takes away all rights to files, TCP and signals to processes outside.

Nothing is allowed, so there are no rules, only the list of what is handled, which grows with the kernel's ABI.
Source: the kernel's Documentation/userspace-api/landlock.rst and include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import struct

from pytest_quantgate.sandbox import kernel

__all__ = ["abi", "restrict"]

_CREATE, _RESTRICT = 444, 446
_VERSION = 1
_FILES = ((5, 16), (3, 15), (2, 14), (1, 13))  # first ABI, number of access rights from bit 0 on
_NETWORK, _SCOPES = 4, 6
_BOTH = 0b11


def abi() -> int:
    """Return the version of the kernel's interface; 0 where there is none."""
    try:
        return kernel.syscall(_CREATE, None, 0, _VERSION)
    except OSError:
        return 0


def restrict() -> int:
    """Take all rights from this process and its children, for ever; return the ABI, 0 if there is no landlock.

    Raises:
        OSError: there is landlock, and it refuses (no_new_privs was not set).

    """
    version = abi()
    if not version:
        return 0
    bits = next(bits for first, bits in _FILES if version >= first)
    fields = [2**bits - 1]
    if version >= _NETWORK:
        fields.append(_BOTH)  # bind and connect TCP
    if version >= _SCOPES:
        fields.append(_BOTH)  # abstract unix sockets and signals
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    rules = kernel.syscall(_CREATE, ctypes.c_char_p(attributes), len(attributes), 0)
    try:
        kernel.syscall(_RESTRICT, rules, 0)
    finally:
        os.close(rules)
    return version
