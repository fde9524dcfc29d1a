"""Batches on their way to training: all arrive, in order, none is overwritten too early, and waiting is measured."""
import numpy as np
import pytest
from card import Card

from npsrgan.data import feed
from npsrgan.data.feed import Feed
from npsrgan.device import CPU, Device
from npsrgan.fast.cuda.upload import Upload
from npsrgan.images import to_float
from npsrgan.train.settings import Settings
from npsrgan.trainer import Trainer


def batches(count):
    return [(step, np.full((2, 3, 3, 3), step, np.uint8), np.full((2, 6, 6, 3), 255 - step, np.uint8)) for step in range(count)]


def test_on_a_cpu_batches_are_converted():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    (step, lr, hr), last = Feed([(7, levels, levels[:, ::-1]), (8, levels, levels)])
    assert step == 7 and last[0] == 8 and lr.dtype == hr.dtype == np.float32 and np.array_equal(hr[:, ::-1], lr)
    assert np.array_equal(lr, to_float(levels)) and lr.min() == -1 and lr.max() == 1 and list(Feed([])) == []


def test_on_a_cpu_waiting_is_the_time_that_the_next_batch_takes(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(feed, "perf_counter", lambda: next(clock))
    timed = Feed(batches(3))
    assert len(list(timed)) == 3 and timed.waited() == 4 and timed.waited() == 0      # three batches, and the end


def test_on_a_card_all_batches_arrive(capsys):
    card = Card()
    with_card = Upload(batches(5), card.module, card.module.cuda.Stream())
    arrived = [(step, lr.get(), hr.get(), type(lr)) for step, lr, hr in with_card]
    assert [step for step, *_ in arrived] == list(range(5))
    for (_, lr, hr, kind), (_, *levels) in zip(arrived, batches(5)):
        assert kind is card.kind and lr.shape == (2, 3, 3, 3) and hr.shape == (2, 6, 6, 3) and lr.dtype == hr.dtype == np.float32
        assert np.array_equal(lr, to_float(levels[0])) and np.array_equal(hr, to_float(levels[1]))


def test_on_a_card_only_the_levels_are_copied(monkeypatch):
    """A quarter of the bytes: what goes through pinned memory is uint8."""
    card, pinned = Card(), []
    monkeypatch.setattr(card.module.cuda, "alloc_pinned_memory", lambda size: pinned.append(size) or bytearray(size))
    list(Upload(batches(5), card.module, card.module.cuda.Stream()))
    assert pinned == 2 * [2 * 3 * 3 * 3, 2 * 6 * 6 * 3]


def test_on_a_card_nothing_is_overwritten_too_early():
    """Of every batch: Python waits for the copy out of its pinned memory, the copying stream for the conversion that reads its arrays,
    and the computing stream for the copy."""
    card = Card()
    for step, *_ in Upload(batches(6), card.module, card.module.cuda.Stream()):
        card.did.append(("step", step))
    slots = {0: [], 1: []}
    blocks, current = [], []
    for action, what in card.did:           # cut into what happens up to each step
        current.append((action, what))
        if action == "step":
            blocks.append(current)
            current = []
    for step, block in enumerate(blocks):
        actions = [action for action, _ in block if action != "computing passes"]
        waits = ["copying waits"] if step >= 2 else []
        assert actions == ["Python waits", *waits, "set", "set", "copying passes", "computing waits", "step"]
        copied = dict(block)["copying passes"]
        assert dict(block)["computing waits"] is dict(block)["Python waits"] is copied
        assert all(where == "copying" for action, where in block if action == "set")
        if step >= 2:       # what it waits for was passed in the step before last, after the conversion
            used = dict(block)["copying waits"]
            assert blocks[step - 2][-2] == ("computing passes", used)
        slots[step % 2].append(copied)
    assert all(len(set(map(id, events))) == 1 for events in slots.values()) and slots[0][0] is not slots[1][0]


def test_on_a_card_waiting_is_measured_by_its_clock():
    """From where the next batch is asked for, all work behind it, to where it is there."""
    card = Card()

    def slow():
        for step, lr, hr in batches(4):
            card.clock += 0.25
            yield step, lr, hr
    timed = Upload(slow(), card.module, card.module.cuda.Stream())
    for _ in timed:
        card.clock += 3
    assert timed.waited() == pytest.approx(0.75) and timed.waited() == 0        # nobody waited for the first


def test_a_trainer_chooses(monkeypatch):
    settings = Settings(steps=1, patch_size=4, channels=2, blocks=0)
    assert type(Trainer(settings, CPU).feed([])) is Feed
    assert type(Trainer(settings, Device(Card().module, "")).feed([])) is Upload
