"""Several processes with a GPU each, which exchange arrays by NCCL: from GPU to GPU, in the order of the current stream."""
import warnings

import numpy as np

from npsrgan.layers import views
from npsrgan.system.workers import Workers


def on_gpus(workers, device, say):
    """The workers that exchange arrays of this device.  say: called with one line if they must do so through main memory."""
    if workers.size == 1:
        return workers
    with warnings.catch_warnings(action="ignore"):      # CuPy's own, if it does not find the library
        from cupy.cuda import nccl
    if workers.highest(not nccl.available or workers.local_size > device.cuda.runtime.getDeviceCount()) == [False]:
        return OnGPUs(workers.mpi, device.module, nccl)
    say("gradients pass through main memory, which is slow: start one process for each GPU, and pip install nvidia-nccl-cu12")
    return workers


class OnGPUs(Workers):
    """Workers whose arrays stay on their GPUs.  cupy, nccl: the modules `cupy` and `cupy.cuda.nccl`."""

    def __init__(self, mpi, cupy, nccl):
        super().__init__(mpi)
        self.cupy, self.nccl, self.graphs = cupy, nccl, nccl.get_version() >= 20900          # since NCCL 2.9, CUDA graphs can record it
        self.types = {"f": nccl.NCCL_FLOAT32, "d": nccl.NCCL_FLOAT64}
        self.link = nccl.NcclCommunicator(self.size, self.share(nccl.get_unique_id), self.rank)

    def mean(self, array):
        return self._means([array]).reshape(array.shape)

    def gradients(self, gradients):
        return [self._means(gradients)]

    def _means(self, arrays):
        """The means of several arrays, in one flat buffer.  A group: NCCL sends them together, without copying them first."""
        flat = np.empty_like(arrays[0], shape=sum(array.size for array in arrays))
        arrays = [array.ravel() for array in arrays]
        stream = self.cupy.cuda.get_current_stream().ptr
        self.nccl.groupStart()
        for array, total in zip(arrays, views(flat, [array.shape for array in arrays])):
            self.link.allReduce(array.data.ptr, total.data.ptr, array.size, self.types[array.dtype.char], self.nccl.NCCL_SUM, stream)
        self.nccl.groupEnd()
        flat /= self.size
        return flat
