"""Which of several ways is the fastest is found out on the card: when a question first comes up, each is timed, and the best kept.

All ways to answer a question write the same bits, to the same place: what is chosen, or timed, never shows in a result.
"""
WORTH = 10**8           # multiplications from which on it is: fewer take some microseconds, as a launch does
ROUNDS, BURST = 3, 10   # each way is timed so often, each time for so many launches in a row,
LONG = 2e-4             # or for as many as take about so many seconds, at least one
MARGIN = 0.02           # less than this share is chance: then the first way stays
REFUSALS = 1, 701       # CUDA's numbers for more shared memory or registers than the card has

times = {}              # {question: {way: seconds}}, of this process


def fastest(question, ways, prepare, multiplications):
    """One of `ways`: the fastest where that is known or can be found out, else the first.

    question: anything hashable: all on which the answer depends.       ways(): a list, what is taken by rule first.
    prepare(way): a function without arguments that launches it.  It may be called any number of times.
    Raises what CUDA says of the last way if it refuses all.
    """
    if question not in times:
        if multiplications < WORTH or not measurable():
            return ways()[0]
        times[question] = measure(ways(), prepare)
    return best(times[question])


def best(seconds):
    """Of {way: seconds} the fastest, or the first where the fastest gains next to nothing."""
    first, fastest = next(iter(seconds)), min(seconds, key=seconds.get)
    return first if seconds[first] <= (1 + MARGIN) * seconds[fastest] else fastest


def measure(ways, prepare):
    """{way: seconds of one launch, the least of some rounds}, without the ways that the card refuses.

    In every round each has its turn, so that a clock that is still rising does none an injustice.
    """
    launches, seconds = {}, {}
    for way in ways:
        try:
            launch = prepare(way)       # compiles it, and
            clock(launch, 1)            # warms up
        except RuntimeError as error:   # CuPy's CUDADriverError, which has a status
            if getattr(error, "status", None) not in REFUSALS or way == ways[-1] and not launches:
                raise
        else:
            launches[way], seconds[way] = launch, clock(launch, 1)
    for _ in range(ROUNDS):
        for way, launch in launches.items():
            count = round(min(BURST, max(1, LONG / max(seconds[way], 1e-9))))
            seconds[way] = min(seconds[way], clock(launch, count))
    return seconds


def measurable():
    """Whether a launch can be timed now: while the stream is being captured, nothing runs."""
    import cupy
    return not cupy.cuda.get_current_stream().is_capturing()


def clock(launch, count):
    """Seconds of the card's time for one of `count` launches in a row on the current stream."""
    import cupy
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    for _ in range(count):
        launch()
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(start, end) / 1e3 / count
