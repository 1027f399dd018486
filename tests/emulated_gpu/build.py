"""Builds what stands in for CUDA: two extension modules, a small library, and each kernel.

Everything lies in ``build/emulated_gpu`` under a name that is a hash of what it was made from, so
nothing is built twice. ``python -m tests.emulated_gpu.build`` builds all but the kernels.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("EMULATED_GPU_CACHE", HERE.parents[1] / "build" / "emulated_gpu"))
REPLACED = ("runtime", "driver")
"""The modules of ``cupy_backends.cuda.api`` that are replaced."""

_FLAGS = (
    "-std=c++17", "-O1", "-w", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off",
)  # fmt: skip

# What a caller looks at before it asks whether there was an error.
_SENTINELS = {"funcGetAttribute": "-2", "int": "-1", "PyObject *": None}
_STRUCTS = (
    "cudaChannelFormatDesc", "cudaExtent", "cudaPos", "cudaPitchedPtr", "cudaResourceDesc",
    "cudaTextureDesc",
)  # fmt: skip

_PXD = """
from libc.stdint cimport intptr_t, uintmax_t
cdef extern from *:
    '''
    typedef struct {{ size_t x[16]; }} emulated_struct;
    {typedefs}
    typedef int cudaMemcpyKind;
    typedef int CUdevice;
    '''
    {structs}
    ctypedef int cudaMemcpyKind
    ctypedef int CUdevice
"""

_CLASSES = """
cdef class PointerAttributes:
    cdef readonly int device
    cdef readonly intptr_t devicePointer
    cdef readonly intptr_t hostPointer
    cdef readonly int type
cdef class MemPoolProps:
    cdef int allocType
    cdef int handleType
    cdef int locationType
    cdef int devId
"""

_BODIES = """
cdef class PointerAttributes:
    def __init__(self, int device, intptr_t devicePointer, intptr_t hostPointer, int type=-1):
        self.device, self.devicePointer = device, devicePointer
        self.hostPointer, self.type = hostPointer, type
cdef class MemPoolProps:
    def __init__(self, int a, int h, int l, int d):
        self.allocType, self.handleType, self.locationType, self.devId = a, h, l, d
"""


def compiler(name: str) -> str:
    """The path of a compiler; says what to install where there is none."""
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(
            f"the emulated GPU is built with {name}, which is not installed: apt-get install g++ "
            "(Debian, Ubuntu) or dnf install gcc-c++ (Fedora)"
        )
    return found


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[:4000]}")


def cached(suffix: str, *parts: str | bytes) -> tuple[Path, bool]:
    """Where what is made from ``parts`` belongs, and whether it is there."""
    digest = hashlib.sha256(sys.version.encode())
    for part in parts:
        digest.update(b"\0" + (part.encode() if isinstance(part, str) else part))
    path = CACHE / f"{digest.hexdigest()[:24]}{suffix}"
    return path, path.exists()


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{name} is not installed: pip install 'portable-bp[test-gpu]'")
    return Path(spec.origin).parent


# --- the two modules, by the interface of those that they replace ------------------------------------


def interface(module: str) -> list[tuple[str, str]]:
    """Name and C signature of what the wheel's own module offers to compiled code."""
    code = (
        "import importlib, ctypes\n"
        "name = ctypes.pythonapi.PyCapsule_GetName\n"
        "name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]\n"
        f"found = importlib.import_module('cupy_backends.cuda.api.{module}').__pyx_capi__\n"
        "for k, v in found.items(): print(k, '|', name(v).decode())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [tuple(line.split(" | ")) for line in done.stdout.splitlines()]  # type: ignore[misc]


def declared(name: str, signature: str) -> tuple[str, str]:
    """A function as a declaration and as a definition that asks ``emulated`` for the answer."""
    found = re.fullmatch(r"(.+?) ?\((.*)\)", signature)
    assert found is not None, signature
    result, types = found[1], [t.strip() for t in found[2].split(",")]
    python = any("__pyx_skip_dispatch" in t for t in types)
    optional = any("__pyx_optional_args" in t for t in types)
    types = [_cython(t) for t in types if "__pyx_" not in t or "__pyx_obj_" in t]
    if types == ["void"]:
        types = []
    arguments = [f"{t} a{i}" for i, t in enumerate(types)]
    names = [f"a{i}" for i in range(len(types))]
    default = []
    if optional:
        default = ["int mode"] if name == "streamBeginCapture" else ["unsigned int flags"]
        names.append(default[0].split()[-1])
    sentinel = _SENTINELS.get(name, _SENTINELS.get(result, "0"))
    raises = "" if sentinel is None else f" except? {sentinel}"
    if result in _STRUCTS:
        raises = " except *"
    elif "__pyx_obj_" in result:  # a Python object: no sentinel
        raises = ""
    kind = f"{'cpdef' if python else 'cdef'} {_cython(result)} {name}"
    star = [f"{d}=*" for d in default]
    value = [f"{d}={2 if 'mode' in d else 0}" for d in default]
    return (
        f"{kind}({', '.join(arguments + star)}){raises}",
        f"{kind}({', '.join(arguments + value)}){raises}:\n"
        f"    return emulated.{name}({', '.join(names)})",
    )


def _cython(c: str) -> str:
    if "__pyx_obj_" in c:
        return c.split("_")[-1].rstrip(" *")
    return "object" if c == "PyObject *" else c


def source(module: str) -> tuple[str, str]:
    """The declarations (pxd) and the text (pyx) of a module."""
    functions = [(n, s) for n, s in interface(module) if "(" in s]
    numbers = [(n, s) for n, s in interface(module) if "(" not in s]
    used = {t for t in _STRUCTS if any(t in s for _, s in functions)}
    head = _PXD.format(
        typedefs="\n    ".join(f"typedef emulated_struct {t};" for t in sorted(used)),
        structs="\n    ".join(f"ctypedef struct {t}:\n        pass" for t in sorted(used)),
    )
    classes = module == "runtime"
    pxd = head + (_CLASSES if classes else "")
    # A variable of C: the module's own names are gone when the last arrays are freed.
    pyx = f"from tests.emulated_gpu.{module} import api, constants, NUMBERS\n"
    pyx += "cdef object emulated = api\n"
    pyx += _BODIES if classes else ""
    for name, kind in numbers:
        pxd += f"cdef {kind} {name}\n"
        pyx += f"{name} = NUMBERS[{name!r}]\n"
    for name, signature in functions:
        first, second = declared(name, signature)
        if name in ("getChannelDesc", "getTextureObjectResourceDesc", "getTextureObjectTextureDesc",
                    "make_Extent", "make_Pos", "make_PitchedPtr"):  # fmt: skip
            second = second.split("\n")[0] + f"\n    raise NotImplementedError({name!r})"
        pxd += first + "\n"
        pyx += second + "\n"
    pyx += "globals().update({k: v for k, v in constants().items() if k not in globals()})\n"
    return pxd, pyx


def module(name: str) -> Path:
    """The built module that stands for ``cupy_backends.cuda.api.NAME``."""
    original = next((package("cupy_backends") / "cuda" / "api").glob(f"{name}.*"))
    built, there = cached(f"/{name}.so", Path(__file__).read_bytes(), original.read_bytes())
    if there:
        return built
    gcc = compiler("g++")
    if importlib.util.find_spec("Cython") is None:
        raise RuntimeError("Cython is not installed: pip install 'portable-bp[test-gpu]'")
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "cupy_backends" / "cuda" / "api"
        inside.mkdir(parents=True)
        for parent in (inside, inside.parent, inside.parent.parent):
            (parent / "__init__.py").touch()
        pxd, pyx = source(name)
        (inside / f"{name}.pxd").write_text(pxd)
        (inside / f"{name}.pyx").write_text(pyx)
        run(sys.executable, "-m", "cython", "-3", str(inside / f"{name}.pyx"))
        put(built, gcc, "-x", "c", str(inside / f"{name}.c"), "-O0", "-w", "-shared", "-fPIC",
            f"-I{sysconfig.get_paths()['include']}")  # fmt: skip
    return built


def put(path: Path, *command: str) -> None:
    """The compiler's output at ``path``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    run(*command, "-o", str(part))
    part.replace(path)


def library() -> Path:
    """Threads of a block, and cuBLAS under the name by which it is loaded."""
    built, there = cached("/libcublas.so.13", (HERE / "threads.c").read_bytes())
    if not there:
        put(built, compiler("g++"), "-x", "c", str(HERE / "threads.c"), "-O2", "-w", "-shared",
            "-fPIC", "-Wl,-soname,libcublas.so.13")  # fmt: skip
    return built


# --- kernels ------------------------------------------------------------------------------------------


def includes() -> list[str]:
    """Where CuPy's headers lie, and those of its CCCL."""
    own = package("cupy") / "_core" / "include"
    cccl = [own / "cupy" / "_cccl" / name for name in ("cub", "thrust", "libcudacxx")]
    return [f"-I{path}" for path in (*cccl, own)]


@cache
def headers() -> Path:
    """The precompiled head of each kernel, with CuPy's own headers in it."""
    text = (HERE / "kernels.h").read_text()
    built, there = cached("/kernels.h", text, *includes(), *_FLAGS)
    if not there or not built.with_suffix(".h.gch").exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        part = built.with_name(f"{os.getpid()}.h")
        part.write_text(text)
        put(built.with_suffix(".h.gch"), compiler("g++"), *_FLAGS, *includes(), "-x",
            "c++-header", str(part))  # fmt: skip
        part.replace(built)
    return built


def kernels(text: str, defines: Sequence[str]) -> Path | None:
    """The library of the kernels in a CUDA text; None where there is none."""
    head = (
        r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(([^{]*)\)'
    )
    text = re.sub(r"#include .cupy/b?float16.cuh.", "", text)  # no half precision here
    text = re.sub(  # a block's memory has its size from the launch
        r"extern __shared__ __align__\(\d+\) (\w+) (\w+)\[\];",
        r"\1 *const \2 = (\1 *)emulated_shared;",
        text,
    )
    found = re.findall(head, text)
    if not found:
        return None
    start = headers()
    tail = "".join(f"EMULATED_KERNEL({n}, {int('__syncthreads' in text)})\n" for n, _ in found)
    whole = f"{text}\n{tail}"
    built, there = cached(".so", whole, str(start), *defines)
    if not there:
        for name, arguments in found:  # which arguments are only read: g++ does not say
            only_read = [a.lstrip().startswith("const ") for a in split(arguments)]
            built.with_suffix(f".{name}").write_text("".join(str(int(r)) for r in only_read))
        with tempfile.NamedTemporaryFile("w", suffix=".cpp") as file:
            file.write(whole)
            file.flush()
            put(built, compiler("g++"), *_FLAGS, *defines, *includes(), "-shared", "-include",
                str(start), file.name)  # fmt: skip
    return built


def split(arguments: str) -> list[str]:
    """A list of arguments at the commas that stand in no brackets.

    >>> split("const CArray<float, 1, 1, 1> a, int b")
    ['const CArray<float, 1, 1, 1> a', ' int b']
    """
    parts, depth = [""], 0
    for character in arguments:
        depth += (character in "<(") - (character in ">)")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts if arguments.strip() else []


def main() -> None:
    for name in REPLACED:
        print(module(name))
    print(library())
    print(headers())


if __name__ == "__main__":
    main()
