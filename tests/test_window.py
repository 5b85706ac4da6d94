"""Both ends of a session without sockets: whatever is cut, frames arrive once and in order."""

import copy
from collections import deque
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vfl.net import window
from vfl.net.window import (
    BEAT,
    GREETING,
    MAX_FRAME,
    OVERHEAD,
    REPORTS,
    Breach,
    OldAttempt,
    Opening,
    ReceiveWindow,
    SendWindow,
    Windows,
)

SMALL = 4000  # bytes of a window under test
SIZES = st.integers(0, SMALL - OVERHEAD) | st.integers(0, 50)
SIDES = st.sampled_from([0, 1])  # the end that dials, the end that listens
NUMBERS = st.integers(0, 10**18 - 1)

Item = bytes | str  # what is on the line: a frame or a report


class TwoEnds(RuleBasedStateMachine):
    """Sessions over lines that keep the order of what is on them, and lose its end when they are cut."""

    @initialize()
    def begin(self) -> None:
        self.patch = mock.patch.object(window, "WINDOW", SMALL)
        self.patch.start()
        self.ends = [Windows(None), Windows(None)]
        self.sent: list[list[bytes]] = [[], []]  # by each end
        self.taken = [0, 0]  # of the other end's frames
        self.lines: list[deque[Item]] | None = [deque(), deque()]  # from each end; None: broken
        self.asked: list[tuple[int, int]] = []
        self.now = 0.0

    def teardown(self) -> None:
        """Nothing is stuck: over a line that holds, all that was sent arrives."""
        if not hasattr(self, "ends"):
            return
        if self.lines is None:
            self.connect(answer_is_lost=False)
        for _ in range(2):
            for side in (0, 1):
                self.send_all(side)
                while self.lines is not None and self.lines[side]:
                    self.arrive(side)
                while not self.ends[1 - side].receiving.is_empty:
                    self.take(1 - side)
                self.report(1 - side)
                while self.lines is not None and self.lines[1 - side]:
                    self.arrive(1 - side)
        for side in (0, 1):
            assert self.taken[1 - side] == len(self.sent[side])
            assert self.ends[side].sending.is_empty and self.ends[side].sending.held == 0
        self.patch.stop()

    def send_all(self, side: int) -> None:
        while self.ends[side].sending.has_next:
            self.send(side)

    # --- What a party does ---

    @rule(side=SIDES, size=SIZES)
    def put(self, side: int, size: int) -> None:
        sending = self.ends[side].sending
        frame = len(self.sent[side]).to_bytes(4, "big").ljust(size, b".")[:size]
        if sending.has_room(frame):
            sending.put(frame)
            self.sent[side].append(frame)
        else:
            with pytest.raises(ValueError, match="beyond the window"):
                sending.put(frame)

    @rule(side=SIDES)
    def take(self, side: int) -> None:
        receiving = self.ends[side].receiving
        if not receiving.is_empty:
            assert receiving.take() == self.sent[1 - side][self.taken[side]]
            self.taken[side] += 1

    # --- What the line does ---

    @precondition(lambda self: self.lines is not None)
    @rule(side=SIDES)
    def send(self, side: int) -> None:
        assert self.lines is not None
        if self.ends[side].sending.has_next:
            frame, _ = self.ends[side].sending.take_next()
            self.lines[side].append(frame)

    @precondition(lambda self: self.lines is not None)
    @rule(side=SIDES)
    def report(self, side: int) -> None:
        assert self.lines is not None
        receiving = self.ends[side].receiving
        self.lines[side].append(str(receiving.consumed))
        receiving.reported = receiving.consumed
        assert not receiving.report_is_due

    @precondition(lambda self: self.lines is not None)
    @rule(side=SIDES)
    def arrive(self, side: int) -> None:
        """The first of what this end has sent."""
        assert self.lines is not None
        if not self.lines[side]:
            return
        item, there = self.lines[side].popleft(), self.ends[1 - side]
        if isinstance(item, bytes):
            there.receiving.put(item)
        else:
            self.now += BEAT
            there.sending.hear_report(item, self.now)

    @rule()
    def cut(self) -> None:
        """All that is under way is lost."""
        self.lines = None

    @rule(answer_is_lost=st.booleans())
    def connect(self, answer_is_lost: bool) -> None:
        """The end that dials takes its line for broken, whether or not the other does."""
        dials, listens = self.ends
        asked = dials.ask()
        self.asked.append(asked)
        arrived = listens.answer(*asked)
        self.lines = None
        if not answer_is_lost:
            dials.take_answer(arrived)
            self.lines = [deque(), deque()]

    # --- What a hostile end does ---

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        """A Resume sent once more changes nothing."""
        listens = self.ends[1]
        before = dict(vars(listens.sending), _kept=dict(listens.sending._kept))
        arrived, attempts = listens.receiving.arrived, listens.attempts
        with pytest.raises(OldAttempt, match="a Resume that is not its latest"):
            listens.answer(*data.draw(st.sampled_from(self.asked)))
        assert vars(listens.sending) == before
        assert (listens.receiving.arrived, listens.attempts) == (arrived, attempts)

    @rule(side=SIDES, received=st.integers(-5, 60))
    def count_frames(self, side: int, received: int) -> None:
        """It may go on from any frame that is kept and was sent, and from no other."""
        sending = copy.deepcopy(self.ends[side].sending)
        possible = sending._first <= received <= sending._begun
        try:
            sending.go_on(received)
        except Breach as breach:
            assert not possible
            assert str(breach) == "counts frames which it cannot have"
            return
        assert possible
        again = []
        while sending.has_next:
            again.append(sending.take_next()[0])
        assert again == self.sent[side][received:]

    @rule(side=SIDES, consumed=st.integers(0, 20_000))
    def count_bytes(self, side: int, consumed: int) -> None:
        """What is consumed was sent over this connection, and is no less than it was."""
        sending = copy.deepcopy(self.ends[side].sending)
        costs = [len(frame) + OVERHEAD for frame in self.sent[side]]
        possible = sending._consumed <= consumed <= sum(costs[: sending._next])
        if possible:
            sending.hear_report(str(consumed), self.now + BEAT)
            kept = [i for i in range(len(costs)) if sum(costs[: i + 1]) > consumed]
            assert list(sending._kept) == kept
        else:
            with pytest.raises(Breach, match="a flow report that cannot be"):
                sending.hear_report(str(consumed), self.now + BEAT)

    @invariant()
    def memory_is_bounded(self) -> None:
        for end in getattr(self, "ends", ()):
            assert 0 <= end.sending.held <= SMALL
            assert 0 <= end.receiving.held <= SMALL
            assert end.receiving.held == sum(len(f) + OVERHEAD for f in end.receiving.frames)


TestTwoEnds = TwoEnds.TestCase


# --- One window at a time ---


def sent(*sizes: int) -> SendWindow:
    """A window from which all has gone out."""
    sending = SendWindow()
    for size in sizes:
        sending.put(bytes(size))
    while sending.has_next:
        sending.take_next()
    return sending


@given(st.text(max_size=30) | NUMBERS.map(str) | NUMBERS.map(lambda n: f"{n}.0"))
def test_a_report_is_a_number_of_bytes_that_were_sent(report: str) -> None:
    sending = sent(100, 200)
    most = 300 + 2 * OVERHEAD
    digits = report.isascii() and report.isdigit() and len(report) <= 18
    if digits and int(report) <= most:
        assert sending.hear_report(report, 0.0) is (int(report) > 0)
    else:
        with pytest.raises(Breach, match=r"^a flow report that cannot be$"):
            sending.hear_report(report, 0.0)


@pytest.mark.parametrize(
    "report", ["-1", "+1", " 1", "1\n", "1_0", "1e2", "0x1", "", "9" * 5000, "١", "¹"]
)
def test_a_report_that_is_none_is_a_breach(report: str) -> None:
    with pytest.raises(Breach, match="a flow report that cannot be"):
        sent(1000).hear_report(report, 0.0)


def test_reports_come_at_a_pace_unless_they_are_due() -> None:
    sending = sent(*[MAX_FRAME - OVERHEAD] * 2)
    for _ in range(REPORTS):
        assert not sending.hear_report("0", 1.0)
    assert sending.hear_report(str(window.WINDOW // 4), 1.0 + BEAT)
    for _ in range(REPORTS):  # that one was due, and all may come anew
        sending.hear_report(str(window.WINDOW // 4), 1.0 + BEAT)
    with pytest.raises(Breach, match="flow reports without end"):
        sending.hear_report(str(window.WINDOW // 4), 1.0 + BEAT)


def test_another_connection_has_a_pace_of_its_own() -> None:
    sending = sent(1000)
    for _ in range(3):
        for _ in range(REPORTS):
            sending.hear_report("0", 0.0)
        sending.go_on(1)
    sending.go_on(0)
    with pytest.raises(Breach, match="a flow report that cannot be"):
        sending.hear_report("1256", 0.0)  # nothing has gone out over this one


def test_what_goes_out_once_more_is_told_apart() -> None:
    sending = sent(1, 2)
    sending.put(bytes(3))
    sending.go_on(1)
    assert [sending.take_next() for _ in range(2)] == [(bytes(2), True), (bytes(3), False)]
    assert not sending.has_next


def test_the_largest_frame_fits_into_an_empty_window_and_two_do_not() -> None:
    sending = SendWindow()
    largest = bytes(MAX_FRAME)
    assert sending.has_room(largest)
    sending.put(largest)
    assert not sending.has_room(largest)


def test_a_window_that_is_cleared_keeps_and_sends_nothing() -> None:
    sending = sent(1, 2)
    sending.put(bytes(3))
    sending.clear()
    assert sending.is_empty and not sending.has_next and sending.held == 0


@given(st.lists(st.integers(0, 2000), max_size=20), st.integers(0, 8000))
def test_no_more_is_received_than_is_allowed(sizes: list[int], most: int) -> None:
    receiving = ReceiveWindow(Opening(2000, most))
    held = 0
    for size in sizes:
        if held + size + OVERHEAD > most:
            before = receiving.arrived
            with pytest.raises(Breach, match="more than it was allowed to send"):
                receiving.put(bytes(size))
            assert (receiving.held, receiving.arrived) == (held, before)
        else:
            receiving.put(bytes(size))
            held += size + OVERHEAD
    assert sum(len(frame) + OVERHEAD for frame in receiving.frames) == receiving.held == held


def test_more_is_allowed_once_there_is_a_job() -> None:
    receiving = ReceiveWindow(GREETING)
    assert receiving.largest == GREETING.frame
    receiving.allowed = None
    assert receiving.largest == MAX_FRAME
    receiving.put(bytes(MAX_FRAME))
    with pytest.raises(Breach):
        receiving.put(bytes(MAX_FRAME))


def test_a_report_is_due_before_the_other_end_is_held_back() -> None:
    receiving = ReceiveWindow(None)
    receiving.put(bytes(window.WINDOW // 4 - OVERHEAD - 1))
    receiving.put(b"")
    receiving.take()
    assert not receiving.report_is_due
    receiving.take()
    assert receiving.report_is_due
    receiving.reported = receiving.consumed
    assert not receiving.report_is_due


@pytest.mark.parametrize("received", [-1, 3, 2**61])
def test_frames_that_were_never_sent_end_the_session(received: int) -> None:
    for windows, message in ((Windows(None), "Resume"), (Windows(None), "Resumed")):
        for size in (1, 2):
            windows.sending.put(bytes(size))
            windows.sending.take_next()
        windows.sending.put(b"not sent yet")
        with pytest.raises(Breach, match=rf"^a {message} that counts frames which it cannot have$"):
            if message == "Resume":
                windows.answer(1, received)
            else:
                windows.take_answer(received)
