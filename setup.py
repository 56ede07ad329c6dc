"""Builds the compiled row reader; all else is in pyproject.toml. Without a C compiler the install does without it."""

import hashlib
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# What `pipeline.text.compiled.source_digest` gives: a reader compiled from another text is not used.
FILES = sorted(Path("pipeline/text").glob("rowreader*.px[iy]*"))
DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in FILES)).hexdigest()

ROW_READER = Extension(
    "pipeline.text.rowreader",
    ["pipeline/text/rowreader.pyx"],
    depends=[str(path) for path in FILES],
    define_macros=[("ROWREADER_SOURCE", f'"{DIGEST}"')],
    extra_compile_args=["-O3"],
)
EXTENSIONS = cythonize([ROW_READER], build_dir="build/cython")
for extension in EXTENSIONS:
    extension.optional = True  # cythonize drops it

setup(ext_modules=EXTENSIONS)
