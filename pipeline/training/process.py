"""What must hold in a training process before anything is computed: threads, determinism, allocator, no network."""

import ctypes
import os
import platform
import warnings

import huggingface_hub.constants
import torch

from pipeline.recipe.profiles import Execution

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def prepare_process(execution: Execution) -> None:
    """Set this process up for a training as the run's lock describes it.

    On the CPU the result is promised bitwise, so the number of threads is fixed and nondeterministic operations raise.
    """
    # Everything that is needed lies in the folders given; a look at a hub could only hang or change a result.
    os.environ["HF_HUB_OFFLINE"] = "1"
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # the command line says false, for processes that fork
    if execution.device == "cuda":
        # Fragments are what runs a card full at the last long batch. PyTorch renamed the variable in 2.9.
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    else:
        keep_freed_memory()
        torch.set_num_threads(execution.threads)
        torch.use_deterministic_algorithms(True)
        # Deterministic mode also fills every fresh tensor; the loss takes one of 32,768 columns a step and reads few.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # A frozen base under activation checkpointing warns once a layer; the adapters do get their gradients.
    warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next step; nothing on another C library. See mallopt(3).

    As it comes it maps every large tensor anew and unmaps it when freed: some 440,000 page faults a step of a small
    model, which virtual machines pay dearly for.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
