"""Makes the data image's environment small: deletes what no data stage opens, and what only debuggers read.

Everything that goes is named here with the reason. Patterns are matched against the folder of installed packages, so a
package that is laid out anew in its next version loses nothing by accident. Of modules the bytecode stays, without the
source: a traceback names a package's file and line, and shows the text of hanforge's own lines alone.
Usage, in the image's build: python trim.py /opt/hanforge, with the environment's own Python, where `strip` is on PATH.
"""

import compileall
import shutil
import subprocess
import sys
from pathlib import Path

# botocore describes every service of the cloud; the store speaks to these (s3fs with keys, roles, sign-on and tokens).
SERVICES = {"s3", "sso", "sso-oidc", "sts"}
USELESS = (
    "*/tests",
    "numpy/*/tests",
    "numpy/distutils",  # build systems for other people's extensions
    "numpy/f2py",
    "numpy/_core/_simd*",  # for its own tests
    "**/include",  # headers and sources, for compiling against
    "pyarrow/src",
    "**/*.pxd",
    "**/*.pxi",
    "**/*.pyx",
    "**/*.pyi",
    "**/*.a",
    "pyarrow/libarrow_flight*",  # RPC between databases
    "pyarrow/libarrow_python_flight*",
    "pyarrow/_flight*",
    "pyarrow/libarrow_s3*",  # fsspec does all I/O
    "pyarrow/_s3fs*",
    "pyarrow/_azurefs*",
    "pyarrow/_gcsfs*",
    "pyarrow/_hdfs*",
    "pyarrow/_csv*",  # of all formats, hanforge reads Parquet
    "pyarrow/_orc*",
    "pyarrow/_feather*",
    "pyarrow/*_encryption*",
    "pyarrow/_acero*",  # queries over many files: Python's part; libarrow_python is linked with the libraries
    "pyarrow/_dataset*",
    "pyarrow/_substrait*",
    "pyarrow/_pyarrow_cpp_tests*",
    "pyarrow/libarrow_python*.so",  # copies of the library whose name ends in its version
    "pyarrow/libarrow_python*.so.*.*.*",
    "zstandard/_cffi*",  # the backend for PyPy
    "kubernetes/aio",  # a second client
    "kubernetes/client/api/[!_]*",  # a class for each resource, loaded when asked for: k8s/ speaks in plain objects
    "kubernetes/client/models/[!_]*",
    "kubernetes/**/*_test.py",
)
UNTOUCHED = ("numpy",)  # its libraries were patched after linking, which `strip` does not bear


def doomed(packages: Path) -> list[Path]:
    """Every path under `packages` that goes."""
    found = [path for pattern in USELESS for path in packages.glob(pattern)]
    services = packages / "botocore" / "data"
    return found + [path for path in services.glob("*") if path.is_dir() and path.name not in SERVICES]


def delete(path: Path) -> None:
    """A file or a folder; nothing when it went with its folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def compile_only(packages: Path) -> None:
    """Leave modules as bytecode beside where the source was (PEP 3147, sourceless): half their size."""
    if not compileall.compile_dir(packages, quiet=1, legacy=True, force=True, workers=0):
        raise SystemExit("a module does not compile")
    for path in [*packages.rglob("*.py"), *packages.rglob("__pycache__")]:
        delete(path)


def strip(packages: Path) -> None:
    """Take the symbols that only debuggers read out of the extensions."""
    for library in packages.glob("**/*.so*"):
        inside = library.relative_to(packages).parts[0]
        if not library.is_symlink() and not inside.endswith(".libs") and inside not in UNTOUCHED:
            subprocess.run(["strip", "--strip-unneeded", library], check=True)


def size_bytes(folder: Path) -> int:
    """What a folder's files take, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def main(environment: Path) -> None:
    """Make it small, and print one line."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    before = size_bytes(packages)
    for path in doomed(packages):
        delete(path)
    compile_only(packages)
    strip(packages)
    print(f"site-packages: {before / 1e6:,.0f} -> {size_bytes(packages) / 1e6:,.0f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
