"""Makes CuPy run on emulated devices in this process: ``install()`` before CuPy is imported."""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType
from typing import Any

from tests.emulated_gpu import build, cublas, driver, runtime

_API = "cupy_backends.cuda.api"
_LIBS = "cupy_backends.cuda.libs"


class _Finder:
    """Our modules in place of CuPy's of the same name."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        room, _, module = name.rpartition(".")
        if room == _API and module in build.REPLACED:
            file = str(build.module(module))
            loader = ExtensionFileLoader(name, file)
            return importlib.util.spec_from_file_location(name, file, loader=loader)
        return None


class NVRTCError(RuntimeError):
    pass


class _Nvrtc(ModuleType):
    """The compiler of kernels, as far as CuPy calls it."""

    NVRTCError = NVRTCError

    def __init__(self) -> None:
        super().__init__(f"{_LIBS}.nvrtc")
        self.programs: dict[int, Any] = {}
        self.texts: dict[str, str] = {}
        """Every text that was compiled in this process, by the name of its kernel."""

    def getVersion(self) -> tuple[int, int]:
        return 13, 0

    def getSupportedArchs(self) -> list[int]:
        return [90]

    def createProgram(self, text: str, name: str, headers: Any, names: Any) -> int:
        from tests.emulated_gpu import device

        return device.handle(self.programs, [text, b"", ""])

    def compileProgram(self, number: int, options: Any) -> None:
        program = self.programs[number]
        try:
            built = build.kernels(program[0], [o for o in options if o.startswith("-D")])
        except RuntimeError as error:
            program[2] = str(error)
            raise NVRTCError(str(error)) from None
        program[1] = b"" if built is None else str(built).encode()
        self.texts[program[1].decode()] = program[0]

    def getCUBIN(self, number: int) -> bytes:
        image: bytes = self.programs[number][1]
        return image

    getPTX = getCUBIN

    def getProgramLog(self, number: int) -> str:
        log: str = self.programs[number][2]
        return log

    def destroyProgram(self, number: int) -> None:
        del self.programs[number]


class _Cublas(ModuleType):
    """CuPy's own cuBLAS is not called; the library that it would load is the emulated one."""

    def __init__(self) -> None:
        super().__init__(f"{_LIBS}.cublas")


nvrtc = _Nvrtc()


def install() -> None:
    if "cupy" in sys.modules:
        raise RuntimeError("CuPy is there already: install() comes first")
    os.environ["CUPY_ACCELERATORS"] = ""  # reductions by CuPy's own kernels, not by CUB
    os.environ["CUPY_CACHE_IN_MEMORY"] = "1"
    sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
    library = ctypes.CDLL(str(build.library()), mode=ctypes.RTLD_GLOBAL)
    cublas.connect(library)
    driver.connect(library)
    build.headers()
    sys.modules[f"{_LIBS}.cublas"] = _Cublas()
    import cupy
    from cupy_backends.cuda import libs

    libs.nvrtc, libs.cublas = nvrtc, sys.modules[f"{_LIBS}.cublas"]
    cupy.cuda.compiler.nvrtc = nvrtc
    runtime.hook = runtime.make_hook()
    cupy.cuda.compiler._get_max_compute_capability = lambda: "90"
    for api in (runtime.api, driver.api):
        atexit.register(api.close)
