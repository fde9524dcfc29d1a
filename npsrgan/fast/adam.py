"""The twin of Adam's update: cache-sized blocks on all threads, without copying the gradients."""
import numpy as np

from npsrgan import adam
from npsrgan.fast.blocks import supported
from npsrgan.fast.threads import parallel
from npsrgan.ops.operation import twin

BLOCK = 1 << 16     # entries per update: few enough to stay in the cache, enough to hide the call overhead


@twin(adam.update)
def update(p, gradients, m, v, rate, count, beta1, beta2, eps):
    """See the reference."""
    starts = np.cumsum([0, *(gradient.size for gradient in gradients)]).tolist()
    if not supported(p, m, v) or starts[-1] != p.size:
        return NotImplemented
    pace, correction = rate / (1 - beta1 ** count), 1 - beta2 ** count
    gradients = [gradient.reshape(-1) for gradient in gradients]

    def move(k, first):
        g = gradients[k][first:first + BLOCK].astype(p.dtype, copy=False)
        mine = slice(starts[k] + first, starts[k] + first + len(g))
        m_, v_ = m[mine], v[mine]
        m_ += (1 - beta1) * (g - m_)
        v_ += (1 - beta2) * (g * g - v_)
        p[mine] -= pace * m_ / (np.sqrt(v_ / correction) + eps)

    parallel(lambda job: move(*job), [(k, first) for k, g in enumerate(gradients) for first in range(0, g.size, BLOCK)])
