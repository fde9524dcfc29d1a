"""The teaching kernels of the lesson on the GPU are CUDA that NVRTC accepts."""
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest

LESSON = next((Path(__file__).parents[2] / "lessons").glob("[0-9][0-9]_gpu.py"))

try:
    from cupy_backends.cuda.libs import nvrtc
    nvrtc.getVersion()
    NO_NVRTC = None
except Exception as error:      # no CuPy, or no library for it to load
    NO_NVRTC = f"no NVRTC to compile with ({type(error).__name__}): pip install -r tests/requirements.txt"


@pytest.fixture(scope="module")
def rungs():
    with mock.patch.object(sys, "path", [str(LESSON.parent), *sys.path]), mock.patch.dict("os.environ", MPLBACKEND="Agg"):
        return runpy.run_path(str(LESSON))


@pytest.mark.skipif(NO_NVRTC is not None, reason=str(NO_NVRTC))
@pytest.mark.parametrize("rung", ["NAIVE", "COALESCED", "FUSED"])
def test_nvrtc_compiles(rungs, rung):
    program = nvrtc.createProgram(rungs[rung], f"{rung}.cu", [], [])
    try:
        nvrtc.compileProgram(program, ["-arch=sm_80"])
        assert nvrtc.getCUBIN(program)[:4] == b"\x7fELF"
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    finally:
        nvrtc.destroyProgram(program)


def test_the_coalesced_rung_divides_the_work_in_another_way(rungs):
    assert "piece" in rungs["NAIVE"] and "piece" not in rungs["COALESCED"]
    assert rungs["COALESCED"].count("i += gridDim.x * blockDim.x") == 3
