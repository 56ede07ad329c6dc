"""One safetensors file of a merged model, written tensor by tensor at its final offset.

What the adapter does not touch is copied from file to file by the kernel; the process never holds a shard.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from pipeline.errors import Trouble
from pipeline.merging.formula import as_bytes, merged_blocks, write_rows
from pipeline.merging.plan import MergedFile, MergedTensor

COPY_BYTES = 64 << 20


def write_file(file: MergedFile, path: Path, check: Callable[[], None] = lambda: None, concurrency: int = 1) -> None:
    """Write one file of the plan at `path`, `concurrency` tensors at once, each by one core: same bytes for any number.

    `check` runs before each tensor and may raise to stop; what is already under way then ends first.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets = []
    offset = 0
    for tensor in file.tensors:
        extent = [offset, offset + tensor.bytes]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": extent}
        offsets.append(offset)
        offset += tensor.bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    threads = torch.get_num_threads()
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.flush()

        def write(tensor: MergedTensor, offset: int) -> None:
            check()
            _write_tensor(stream.fileno(), 8 + len(text) + offset, tensor)

        try:
            with ThreadPoolExecutor(concurrency, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                list(pool.map(write, file.tensors, offsets))
        finally:
            torch.set_num_threads(threads)


def _write_tensor(descriptor: int, offset: int, tensor: MergedTensor) -> None:
    change = tensor.change
    plain = change is None or (change.replacement is None and change.low_rank is None and change.added is None)
    if plain and tensor.dtype == tensor.base.dtype:
        _copy(tensor, descriptor, offset)
    else:
        position = offset
        for block in merged_blocks(tensor):
            position += _write_all(descriptor, as_bytes(block), position)
    if change is not None and change.rows is not None:
        write_rows(descriptor, offset, tensor)


def _copy(tensor: MergedTensor, descriptor: int, offset: int) -> None:
    """Copy the base's bytes. Falls back to a loop where the file systems cannot copy between each other."""
    with tensor.base.file.open("rb", buffering=0) as source:
        done = 0
        while done < tensor.bytes:
            size = min(COPY_BYTES, tensor.bytes - done)
            try:
                count = os.copy_file_range(source.fileno(), descriptor, size, tensor.base.start + done, offset + done)
            except OSError:
                count = _write_all(
                    descriptor, memoryview(os.pread(source.fileno(), size, tensor.base.start + done)), offset + done
                )
            if not count:
                raise Trouble(f"{tensor.base.file} ended inside {tensor.name!r}", "It changed while it was read.")
            done += count


def _write_all(descriptor: int, data: memoryview, offset: int) -> int:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)
    return done
