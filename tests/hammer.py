"""A hammer in C: threads that read words of a mapping without the GIL, and compare them with `helpers.pattern`."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

SOURCE = r"""
#include <stddef.h>
#include <stdint.h>

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13; *state ^= *state >> 7; *state ^= *state << 17;
    return *state;
}

/* Read `touches` words at places that `seed` leads to, of `count` that begin at `words`. Returns how many are wrong. */
uint64_t hammer_random(const volatile uint64_t *words, uint64_t count, uint64_t touches, uint64_t seed) {
    uint64_t wrong = 0, state = seed * 2 + 1;
    for (uint64_t n = 0; n < 16; n++) next(&state);
    for (uint64_t n = 0; n < touches; n++) {
        uint64_t at = next(&state) % count;
        wrong += words[at] != at * UINT64_C(0x9E3779B97F4A7C15);
    }
    return wrong;
}

/* The same for each `step`th word of [first, last). */
uint64_t hammer_sequential(const volatile uint64_t *words, uint64_t first, uint64_t last, uint64_t step) {
    uint64_t wrong = 0;
    for (uint64_t at = first; at < last; at += step)
        wrong += words[at] != at * UINT64_C(0x9E3779B97F4A7C15);
    return wrong;
}
"""


class Hammer:
    """The compiled functions. Each call lets go of the GIL."""

    def __init__(self, library: Path) -> None:
        found = ctypes.CDLL(str(library))
        for name in ("hammer_random", "hammer_sequential"):
            function = getattr(found, name)
            function.restype = ctypes.c_uint64
            function.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64]
        self._library = found

    def random(self, words: Any, touches: int, seed: int) -> int:
        """Read `touches` words of an array of whole words at pseudo-random places. Returns how many are wrong."""
        return int(self._library.hammer_random(words.ctypes.data, len(words), touches, seed))

    def sequential(self, words: Any, first: int = 0, last: int | None = None, step: int = 1) -> int:
        """Read each `step`th word of `[first, last)`. Returns how many are wrong."""
        last = len(words) if last is None else last
        return int(self._library.hammer_sequential(words.ctypes.data, first, last, step))


@functools.cache
def the_hammer() -> Hammer:
    """Compiled once a process; where there is no compiler, the test is skipped."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler, neither gcc nor cc: the hammer cannot be built")
    folder = Path(tempfile.mkdtemp(prefix="hctef-hammer-"))
    (folder / "hammer.c").write_text(SOURCE)
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", folder / "hammer.so", folder / "hammer.c"], check=True)
    hammer = Hammer(folder / "hammer.so")
    shutil.rmtree(folder)  # it is loaded
    return hammer
