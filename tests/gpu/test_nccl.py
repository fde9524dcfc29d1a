"""What is asked of NCCL, where no GPU is: threads take the place of processes, and NumPy's arrays that of the GPUs' memory."""
import ctypes
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from comparisons import wave
from test_sharing import Group

from npsrgan.fast.cuda import nccl


class Array(np.ndarray):
    """A NumPy array that tells its address as CuPy's do."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


def memory(address, count, kind):
    """The `count` numbers at an address."""
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(kind)), (count,))


class Library:
    """`cupy.cuda.nccl`.  Inside a group it only takes down what to add; the end of the group adds it all."""

    NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM, available = ctypes.c_float, ctypes.c_double, "sum", True

    def __init__(self, group, version=21800):
        self.group, self.version, self.asked, self.calls = group, version, threading.local(), []

    def get_version(self):
        return self.version

    def get_unique_id(self):
        return (1, 2, 3)

    def NcclCommunicator(self, size, identity, rank):
        assert (size, identity) == (self.group.size, (1, 2, 3))
        return SimpleNamespace(allReduce=lambda *arguments: self.asked.list.append(arguments))

    def groupStart(self):
        self.asked.list = []

    def groupEnd(self):
        for source, target, count, kind, operation, stream in self.asked.list:
            assert operation == "sum" and stream == 77
            memory(target, count, kind)[:] = self.group.mean(memory(source, count, kind)) * self.group.size
        self.calls.append(len(self.asked.list))


def on_gpus(group, rank, library):
    """The workers of a thread."""
    local = SimpleNamespace(rank=rank, size=group.size, allgather=lambda value: [value] * group.size)
    world = SimpleNamespace(rank=rank, size=group.size, Split_type=lambda kind: local, bcast=lambda value: library.get_unique_id())
    cupy = SimpleNamespace(cuda=SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=77)))
    return nccl.OnGPUs(SimpleNamespace(COMM_WORLD=world, COMM_TYPE_SHARED=0), cupy, library)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_averaged_in_one_group_into_one_buffer(dtype):
    group = Group(3)
    library = Library(group)
    gradients = [[wave(*shape, seed=rank).astype(dtype).view(Array) for shape in ((3, 3, 2, 4), (4,), (5, 6))] for rank in range(3)]
    gradients = [[first, second, third.T] for first, second, third in gradients]        # one that is not contiguous
    answers = group.each(lambda rank: on_gpus(group, rank, library).gradients(gradients[rank]))
    expected = np.concatenate([sum(parts).ravel() / 3 for parts in zip(*gradients)])
    for [flat] in answers:
        assert flat.dtype == dtype
        np.testing.assert_allclose(flat, expected, rtol=1e-6)
    assert library.calls == [3, 3, 3]


def test_the_mean_of_an_array_keeps_its_shape():
    group = Group(2)
    library = Library(group)
    for shape in ((2, 5), (), (1,)):
        arrays = [np.asarray(wave(*shape, seed=rank)).view(Array) for rank in range(2)]
        for mean in group.each(lambda rank, arrays=arrays: on_gpus(group, rank, library).mean(arrays[rank])):
            assert mean.shape == shape
            np.testing.assert_allclose(mean, sum(arrays) / 2)


def test_only_an_nccl_that_cuda_graphs_can_record_is_recorded():
    group = Group(1)
    assert [on_gpus(group, 0, Library(group, version)).graphs for version in (2804, 20900, 22700)] == [False, True, True]


@pytest.mark.parametrize("available, gpus", [(True, 2), (True, 1), (False, 2)])
def test_without_nccl_or_a_gpu_for_each_process_main_memory_serves(monkeypatch, available, gpus):
    said, library = [], SimpleNamespace(available=available)
    monkeypatch.setattr(nccl, "OnGPUs", lambda *arguments: "on GPUs")
    monkeypatch.setattr("cupy.cuda.nccl", library, raising=False)
    workers = SimpleNamespace(size=2, local_size=2, mpi=None, highest=lambda flag: [int(flag)])
    device = SimpleNamespace(module=None, cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: gpus)))
    chosen = nccl.on_gpus(workers, device, said.append)
    assert chosen == ("on GPUs" if available and gpus == 2 else workers)
    assert len(said) == (chosen is workers)
