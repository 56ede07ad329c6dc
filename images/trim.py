"""Makes the data image's environment small: deletes what no data stage opens, and what debuggers read of libraries.

Everything that goes is named here with the reason. Patterns are matched against the folder of installed packages, so a
package that is laid out anew in its next version loses nothing by accident.
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
    "pyarrow/_pyarrow_cpp_tests*",
    "pyarrow/libarrow_python*.so",  # copies of the library whose name ends in its version
    "pyarrow/libarrow_python*.so.*.*.*",
    "zstandard/_cffi*",  # the backend for PyPy
    "kubernetes/aio",  # a second client
)
# Tables and generated code that nobody reads in a traceback: bytecode will do.
GENERATED = ("kubernetes/client/api", "kubernetes/client/models", "pygments/lexers", "wcwidth")
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


def compile_only(folder: Path) -> None:
    """Leave a folder's modules as bytecode without docstrings beside where the source was (PEP 3147, sourceless)."""
    if not folder.is_dir():
        return
    compileall.compile_dir(folder, quiet=1, legacy=True, optimize=2, force=True)
    for path in [*folder.rglob("*.py"), *folder.rglob("__pycache__")]:
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
    for name in GENERATED:
        compile_only(packages / name)
    strip(packages)
    print(f"site-packages: {before / 1e6:,.0f} -> {size_bytes(packages) / 1e6:,.0f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
