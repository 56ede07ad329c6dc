#!/usr/bin/env bash
# Makes .venv with everything the demo, the tests and the linters need. No root; wants Python 3.11 and nothing else.
# A second start sees from the stamp that nothing changed and takes milliseconds. PYTHON=... picks the interpreter.
set -euo pipefail
cd "$(dirname "$0")"

stamp=.venv/.installed
wanted=$({
    cat pyproject.toml setup.py constraints/development.txt constraints/overrides.txt bootstrap.sh
    cat pipeline/text/rowreader*.p?[ix]
    command -v ${CC:-} cc gcc clang || true
} | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi

say() { printf '== %s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    say "no Python 3.11 found; the pinned versions are for 3.11. Install it, or name it: make demo PYTHON=/path/to/python3.11"
    exit 2
}

find_uv() {
    if uv --version >/dev/null 2>&1; then
        echo uv
        return
    fi
    if [ ! -x .hanforge/uv/bin/uv ]; then
        say "no uv on PATH: installing one into .hanforge/uv"
        "$1" -m venv .hanforge/uv
        .hanforge/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
    fi
    echo .hanforge/uv/bin/uv
}

# The row reader is compiled. Without a C compiler here the one of the PyPI package `ziglang` takes its place.
find_compiler() {
    local candidate
    for candidate in ${CC:-} cc gcc clang; do
        if command -v "$candidate" >/dev/null; then
            return
        fi
    done
    if [ ! -x .hanforge/zig/bin/python ]; then
        say "no C compiler on PATH: installing zig's into .hanforge/zig (100 MB)"
        "$uv" venv --quiet --python "$python" .hanforge/zig
        VIRTUAL_ENV=$PWD/.hanforge/zig "$uv" pip install --quiet ziglang==0.17.1
    fi
    export CC="$PWD/.hanforge/zig/bin/python -m ziglang cc" LDSHARED="$PWD/.hanforge/zig/bin/python -m ziglang cc -shared"
}

python=$(find_python)
uv=$(find_uv "$python")
free_gib=$(($(df -Pk . | awk 'NR == 2 {print $4}') / 1048576))
if [ ! -x .venv/bin/python ]; then
    if [ "$free_gib" -lt 12 ]; then
        say "warning: $free_gib GiB of disk are free here; the environment takes about 7, and as much again in uv's cache"
    fi
    say "making .venv with $("$python" --version)"
    "$uv" venv --quiet --python "$python" .venv
fi
say "installing the pinned packages into .venv (torch and vLLM for the CPU: about 7 GB; minutes the first time)"
started=$SECONDS
find_compiler || say "no C compiler could be fetched"
VIRTUAL_ENV=$PWD/.venv "$uv" pip install --quiet --reinstall-package hanforge \
    --overrides constraints/overrides.txt --constraints constraints/development.txt \
    --editable '.[train,development]'
.venv/bin/python -c 'import pipeline.text.rowreader' 2>/dev/null ||
    say "warning: the row reader could not be compiled; prepare gives the same rows, some six times slower"
echo "$wanted" > "$stamp"
say "installed in $((SECONDS - started)) s"
