"""The CUDA kernels where there is no GPU: compiled by NVRTC for several, and run on the CPU behind a shim."""
import subprocess
import sys

import numpy as np
import pytest
from comparisons import relative_error, wave

from npsrgan.fast.cuda import adam, compile, get_precision, set_precision
from npsrgan.fast.cuda.precision import tensor_cores

try:
    from cupy_backends.cuda.libs import nvrtc
    nvrtc.getVersion()
    NO_NVRTC = None
except Exception as error:      # no CuPy, or no library for it to load
    NO_NVRTC = f"no NVRTC to compile with ({type(error).__name__}): pip install -r tests/requirements.txt"

import emulate
from emulate import emulated

needs_gxx = pytest.mark.skipif(emulate.GXX is None, reason="no g++, with which the emulated kernels are built")
FILES = sorted(file.stem for file in compile.FOLDER.glob("*.cu") if "product.cuh" not in file.read_text())     # those need macros
ARCHITECTURES = (70, 80, 90)
CUPYS_OPTIONS = ("--std=c++17", "-ftz=true", "--device-as-default-execution-space")        # what CuPy 14 adds to ours


@pytest.fixture(params=[False, True], ids=["rising", "falling"])
def order(request, monkeypatch):
    """Threads of a block run in rising, then in falling order: a kernel that races gives two results."""
    monkeypatch.setattr(emulate, "falling", request.param)


def cubin(name, architecture, options=()):
    """NVRTC's machine code of NAME.cu.  Called directly: CuPy's own compile asks the driver which GPU there is."""
    program = nvrtc.createProgram(compile.source(name), f"{name}.cu", [], [])
    try:
        nvrtc.compileProgram(program, [*options, *CUPYS_OPTIONS, f"-arch=sm_{architecture}"])
        return nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError:
        pytest.fail(f"{name}.cu for sm_{architecture} with {' '.join(options)}:\n{nvrtc.getProgramLog(program)}")
    finally:
        nvrtc.destroyProgram(program)


@pytest.mark.skipif(NO_NVRTC is not None, reason=str(NO_NVRTC))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", FILES)
def test_compiles(name, architecture):
    assert cubin(name, architecture)[:4] == b"\x7fELF"


def test_importing_the_package_registers_every_twin():
    """In a process of its own: here, the tests have imported the modules one by one.  And none of it needs CuPy."""
    twins = [f"npsrgan.fast.cuda.{file.stem}" for file in compile.FOLDER.glob("*.py") if "\n@twin(" in file.read_text()]
    code = f"import sys, npsrgan.fast.cuda; assert 'cupy' not in sys.modules and not set({twins}) - set(sys.modules)"
    assert "npsrgan.fast.cuda.convolution" in twins
    subprocess.run([sys.executable, "-c", code], check=True, cwd=compile.FOLDER.parents[2])


def test_precision():
    assert get_precision() == "tf32"
    with emulated(capability=90):
        assert tensor_cores()
        set_precision("float32")
        assert get_precision() == "float32" and not tensor_cores()
        set_precision("tf32")
    with emulated(capability=75):
        assert not tensor_cores()
    with pytest.raises(ValueError, match="tf32, float32"):
        set_precision("bfloat16")


# The emulation is strict

def build_and_launch(monkeypatch, tmp_path, code, grid, block, args, function="f"):
    (tmp_path / "trial.cu").write_text(code)
    monkeypatch.setattr(compile, "FOLDER", tmp_path)
    emulate.kernel.__wrapped__("trial", function)(grid, block, args)


@needs_gxx
def test_the_emulation_plays_barriers_shuffles_and_shared_memory(monkeypatch, tmp_path, order):
    code = """extern "C" __global__ void f(const float* x, float* sums, int n) {
        __shared__ float part[4];
        float sum = 0;
        for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[blockIdx.x * n + i];
        for (int lane = 16; lane; lane /= 2) sum += __shfl_xor_sync(~0u, sum, lane);
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
        __syncthreads();
        if (threadIdx.x == 0) sums[blockIdx.x] = part[0] + part[1] + part[2] + part[3];
    }"""
    x, sums = wave(3, 500).astype(np.float32), np.empty(3, np.float32)
    build_and_launch(monkeypatch, tmp_path, code, (3,), (128,), (x, sums, np.int32(500)))
    assert relative_error(sums, x.sum(1)) < 1e-5


@needs_gxx
def test_the_emulation_shows_what_is_wrong(monkeypatch, tmp_path):
    def trial(body, *args, block=(64,)):
        code = f'extern "C" __global__ void f(float* x, int n) {{ __shared__ float t[64]; int i = threadIdx.x; {body} }}'
        build_and_launch(monkeypatch, tmp_path, code, (1,), block, args or (x, np.int32(x.size)))

    x = np.zeros(64, np.float32)
    with pytest.raises(AssertionError, match="beyond the end"):
        trial("x[n + i] = 1;")
    trial("x[i] = x[i + 1];")
    assert np.isnan(x[-1])
    trial("x[i] = t[i];")       # nothing was written there
    assert np.isnan(x).all()
    results = []
    for falling in (False, True):       # a barrier is missing
        monkeypatch.setattr(emulate, "falling", falling)
        trial("t[i] = i; x[i] = t[63 - i];")
        results.append(x.copy())
    assert not np.array_equal(*results)
    with pytest.raises(RuntimeError, match="never come"):
        trial("if (i < 7) __syncthreads(); x[i] = 0;")
    with pytest.raises(RuntimeError, match="have arrived"):
        trial("copy4(t + i, x + i, true); close_group(); x[i] = 1;")
    with pytest.raises(RuntimeError, match="beyond the end"):
        trial("copy4(t + i, x + i + 1, true);")
    with pytest.raises(RuntimeError, match="not aligned"):
        trial("copy16(t, x + 1, true);")
    for wrong in [(x, 64), (x, np.int64(64)), (x, np.float32(64)), (x.astype(np.float64), np.int32(64)), (x,),
                  (x.reshape(8, 8).T, np.int32(64)), (np.ones(64, np.int32), np.int32(64))]:
        with pytest.raises(TypeError):
            trial("x[i] = n;", *wrong)
    with pytest.raises(TypeError, match="sizes"):
        trial("x[i] = n;", block=[64])


# Adam

@needs_gxx
@pytest.mark.parametrize("steps", [1, 2, 1000])
@pytest.mark.parametrize("sizes", [(5000,), (3, 1021, 1, 64, 2048, 1, 1, 700), (7,) * 600], ids=["one", "several", "three launches"])
def test_adam(sizes, steps):
    """Chunks that begin and end within a parameter, at its edges, and beyond many of them."""
    size = sum(sizes)
    p, g, m, v = (wave(size, seed=k).astype(np.float32) for k in range(4))
    v = v * v
    rate, betas, eps = 3e-3, (0.9, 0.999), 1e-8
    exact_m = 0.9 * m.astype(np.float64) + 0.1 * g
    exact_v = 0.999 * v.astype(np.float64) + 0.001 * np.float64(g) ** 2
    move = rate * exact_m / (1 - 0.9 ** steps) / (np.sqrt(exact_v / (1 - 0.999 ** steps)) + eps)
    before, gradients = p.copy(), np.split(g, np.cumsum(sizes)[:-1])
    with emulated(multiprocessors=1):
        numbers = np.array([rate], np.float32), np.array([steps], np.int32), *betas, eps
        adam.update(p, [*map(np.copy, gradients)], m, v, *numbers)
        with pytest.raises(ValueError, match="cannot move"):
            adam.update(p, gradients[1:] or [g[1:]], m, v, *numbers)
    assert relative_error(m, exact_m) < 1e-6 and relative_error(v, exact_v) < 1e-6
    assert relative_error(before - p.astype(np.float64), move) < 1e-4


def test_adams_table_of_gradients_fits_into_a_kernels_arguments():
    assert adam.TABLE.itemsize + 7 * 8 + 8 * 4 <= 4096 and adam.TABLE.fields["start"][1] == 8 * adam.PARAMETERS
