"""The frames of a session in both directions: what to send, deliver, keep and refuse. No sockets here.

A session outlives its connections, and each end has a send window and a receive window (as in TCP,
RFC 9293, section 3.4, but of whole frames). Frames are numbered from 0 in each direction by their order
alone; on the wire there are two numbers beside them, both of the end that receives:

- The flow report: how many bytes of frames have been consumed so far. A sender keeps at most WINDOW
  bytes that are not, so memory is bounded at both ends, and may have to send again only what it keeps.
- The count of frames that have arrived, told once, when another connection takes the place of one that
  broke. The other end sends again from the frame after those; so each arrives once and in order.

Neither number may go back or be ahead of what was sent: that is a breach. What a session may hold grows
with what is known of the other end: a greeting before it has greeted, then what an `Opening` says until
both ends are bound to a job, then WINDOW.
"""

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from vfl.net.pace import Pace
from vfl.net.wire import KIB, MAX_MESSAGE, Octets

MAX_FRAME = MAX_MESSAGE + KIB
WINDOW = 2 * MAX_FRAME
OVERHEAD = 256  # what a frame costs in memory beside its bytes

BEAT = 5.0  # seconds between two flow reports, where nothing calls for one sooner
REPORTS = 64  # flow reports at once; then five a beat, where one is due


class Breach(Exception):
    """The other end sent what it may not; the text names it, and holds no value."""


class OldAttempt(Breach):
    """An attempt to go on that is not the other end's latest: anybody may have sent it again."""


@dataclass(frozen=True)
class Opening:
    """What the other end may send before both are bound to a job."""

    frame: int  # bytes
    window: int  # of frames that nobody has received yet


GREETING = Opening(2 * KIB, 16 * KIB)


@dataclass(frozen=True)
class _KeptFrame:
    """A frame that the other end has not consumed yet."""

    frame: Octets
    start: int  # cost of all frames before it

    @property
    def end(self) -> int:
        return self.start + _cost(self.frame)


class SendWindow:
    """The frames to the other end: which goes out next, and which are kept to be sent again."""

    def __init__(self) -> None:
        self._kept: dict[int, _KeptFrame] = {}  # by number
        self._first = 0  # number of the first that is kept
        self._next = 0  # of the one that goes out next, over the present connection
        self._begun = 0  # frames ever sent, at least in part
        self._queued = 0  # frames ever put here
        self._queued_cost = 0
        self._consumed = 0  # cost of the frames consumed by the other end
        self._reports: Pace | None = None  # of the present connection

    @property
    def is_empty(self) -> bool:
        """Whether the other end has consumed all there was."""
        return not self._kept

    @property
    def held(self) -> int:
        """Bytes of memory that are kept."""
        return sum(_cost(kept.frame) for kept in self._kept.values())

    def has_room(self, frame: Octets) -> bool:
        """Whether the frame may be put here now."""
        return self._queued_cost + _cost(frame) <= self._consumed + WINDOW

    def put(self, frame: Octets) -> None:
        """Queue a frame. Raises ValueError when it has no room (a local bug)."""
        if not self.has_room(frame):
            raise ValueError("a frame beyond the window")
        self._kept[self._queued] = _KeptFrame(frame, self._queued_cost)
        self._queued += 1
        self._queued_cost += _cost(frame)

    @property
    def has_next(self) -> bool:
        """Whether a frame waits to go out."""
        return self._next < self._queued

    def take_next(self) -> tuple[Octets, bool]:
        """The frame that goes out now, and whether it goes out once more."""
        frame, again = self._kept[self._next].frame, self._next < self._begun
        self._next += 1
        self._begun = max(self._begun, self._next)
        return frame, again

    def hear_report(self, report: str, now: float) -> bool:
        """Let go of what a flow report says is consumed; whether that is more than before.

        `now` is in seconds. Raises Breach when the report is none, counts back or ahead of what went out
        over the present connection, or comes too often.
        """
        self._reports = self._reports or Pace(REPORTS, 5 / BEAT, now)
        if not self._reports.take(now):
            raise Breach("flow reports without end")
        consumed = int(report) if re.fullmatch(r"[0-9]{1,18}", report, re.ASCII) else -1
        sent = self._kept[self._next].start if self.has_next else self._queued_cost
        if not self._consumed <= consumed <= sent:
            raise Breach("a flow report that cannot be")
        if consumed >= self._consumed + WINDOW // 4:
            self._reports = None  # it was due, however soon
        more, self._consumed = consumed > self._consumed, consumed
        while self._first in self._kept and self._kept[self._first].end <= consumed:
            del self._kept[self._first]
            self._first += 1
        return more

    def go_on(self, received: int) -> None:
        """Send over another connection from here on, to which so many frames have arrived.

        Raises Breach for frames that were consumed long ago or never sent.
        """
        if not self._first <= received <= self._begun:
            raise Breach("counts frames which it cannot have")
        self._next, self._reports = received, None

    def clear(self) -> None:
        """Keep nothing any more: the session is over."""
        self._kept.clear()
        self._first = self._next = self._begun = self._queued


class ReceiveWindow:
    """The frames from the other end, until they are received here."""

    def __init__(self, allowed: Opening | None) -> None:
        self.allowed = allowed  # None: as much as fits into the window
        self.arrived = 0  # frames, ever
        self.consumed = 0  # cost of the frames taken out of here
        self.reported = 0  # of that, known to the other end
        self.held = 0  # cost of the frames in here
        self._frames: deque[Octets] = deque()

    @property
    def largest(self) -> int:
        """Bytes of the largest frame that may come, which is refused as soon as it says its size."""
        return MAX_FRAME if self.allowed is None else self.allowed.frame

    @property
    def frames(self) -> Iterable[Octets]:
        """Those that nobody has taken yet."""
        return tuple(self._frames)

    def put(self, frame: Octets) -> None:
        """Keep a frame that has arrived. Raises Breach when there are too many."""
        held = self.held + _cost(frame)
        if held > (WINDOW if self.allowed is None else self.allowed.window):
            raise Breach("more than it was allowed to send")
        self._frames.append(frame)
        self.held = held
        self.arrived += 1

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._frames

    def take(self) -> Octets:
        """The next frame, which counts as consumed from here on."""
        frame = self._frames.popleft()
        self.held -= _cost(frame)
        self.consumed += _cost(frame)
        return frame

    @property
    def report_is_due(self) -> bool:
        """Whether the other end has to know now, so that it is not held back."""
        return self.consumed - self.reported >= WINDOW // 4


class Windows:
    """Both windows of one end of a session, and how they go on over another connection.

    The end that dialled asks by `ask` and hears the answer by `take_answer`; the end that listens
    answers by `answer`. Over the connection before, nothing may be put into the receive window after
    `ask` and `answer`: their count stands.
    """

    def __init__(self, allowed: Opening | None) -> None:
        self.sending = SendWindow()
        self.receiving = ReceiveWindow(allowed)
        self.attempts = 0  # to go on, by the end that dialled

    def ask(self) -> tuple[int, int]:
        """Which attempt this is, and how many frames have arrived here."""
        self.attempts += 1
        return self.attempts, self.receiving.arrived

    def take_answer(self, received: int) -> None:
        """Go on: so many frames have arrived at the other end. Raises Breach."""
        self._go_on(received, "Resumed")

    def answer(self, attempt: int, received: int) -> int:
        """Go on as the other end asks; how many frames have arrived here.

        Raises OldAttempt, after which all is as before, and Breach.
        """
        if attempt <= self.attempts:
            raise OldAttempt("a Resume that is not its latest")
        self.attempts = attempt
        self._go_on(received, "Resume")
        return self.receiving.arrived

    def _go_on(self, received: int, message: str) -> None:
        try:
            self.sending.go_on(received)
        except Breach as breach:
            raise Breach(f"a {message} that {breach}") from None


def _cost(frame: Octets) -> int:
    return len(frame) + OVERHEAD
