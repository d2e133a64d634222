"""What was sent, in order, and what the reader has seen of it: the bytes of a stream, or datagrams."""

import bisect
import itertools


class Stream:
    """One direction of a connection: the segments that were sent, and where the reader may be.

    How much of a cancelled send went out is known by what follows it only: it is `cut`, and the
    reader's place is a set.
    """

    def __init__(self):
        self.segments = []
        self.places = {(0, 0)}
        self.ended = False  # the writer has said that there is no more
        self.broken = False  # the rest may be lost, and errors are to be expected
        self.lost_to = None  # a piece of the segments before this one may be missing, or come twice

    def add(self, data, cut=False):
        segment = [memoryview(data), cut]
        if data:
            self.segments.append(segment)
        return segment

    def lose(self):
        self.lost_to = len(self.segments)

    def take(self, data):
        assert data
        data = memoryview(data)
        places = self.follow(data)
        if not places and self.lost_to is not None:
            places = self.jump(data)
        assert places, f"{len(data)} bytes that are not next in the stream: at {sorted(self.places)[:4]} of {self}"
        self.places = places

    def jump(self, data):
        """Where the reader may be behind this when a piece is missing before it, or in it, or came twice."""
        text = b"".join(segment for segment, _ in self.segments)
        starts = [0, *itertools.accumulate(len(segment) for segment, _ in self.segments)]
        found = set()
        for index, offset in self.places:
            place = starts[index] + offset
            same = common_prefix(text[place : place + len(data)], bytes(data[: len(text) - place]))
            for before in range(max(0, same - 4), same + 1):
                rest = bytes(data[before:])
                at = text.find(rest)
                while at >= 0 and len(found) < 1000:
                    found.add(at + len(rest))
                    at = text.find(rest, at + 1)
        self.lost_to = None
        places = set()
        for place in found:
            index = bisect.bisect_right(starts, place) - 1
            places.add((index, place - starts[index]))
        return places

    def follow(self, data):
        places, todo, seen = set(), [(*place, 0) for place in self.places], set()
        while todo:
            place = index, offset, position = todo.pop()
            if place in seen:
                continue
            seen.add(place)
            if position == len(data):
                places.add((index, offset))
                continue
            if index == len(self.segments):
                continue
            segment, cut = self.segments[index]
            size = min(len(segment) - offset, len(data) - position)
            same = common_prefix(segment[offset : offset + size], data[position : position + size])
            if same == size:
                whole = offset + size == len(segment)
                todo.append((index + 1, 0, position + size) if whole else (index, offset + size, position + size))
            if cut:
                # The next segment begins like the rest of this one by chance only.
                todo += [(index + 1, 0, position + n) for n in range(max(0, same - 4), same + 1)]
        return places

    def complete(self):
        first = self.lost_to or 0
        return any(all(cut for _, cut in self.segments[max(index, first) :]) for index, _ in self.places)

    def take_end(self):
        assert self.broken or (self.ended and self.complete()), f"a false end: at {sorted(self.places)[:4]} of {self}"

    def __str__(self):
        segments = [f"{len(segment)}{'?' if cut else ''}" for segment, cut in self.segments]
        return f"[{' '.join(segments)}]{' ended' * self.ended}{' broken' * self.broken}"


def common_prefix(a, b):
    """The number of bytes at the beginning that two buffers of one length have in common."""
    if a == b:
        return len(a)
    low, high = 0, len(a)
    while high - low > 1:
        middle = (low + high) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle
    return low


class Datagrams:
    """One direction between two datagram sockets; one whose send was cancelled may be missing."""

    def __init__(self):
        self.sent = []
        self.places = {0}
        self.broken = False  # the receiver is gone

    @property
    def waiting(self):
        return self.sent[min(self.places) :]

    def add(self, data):
        datagram = [bytes(data), False]
        self.sent.append(datagram)
        return datagram

    def lose(self):
        for datagram in self.sent:
            datagram[1] = True

    def take(self, data, size):
        """data: what a receive of at most `size` bytes came to; the rest of a datagram is dropped."""
        places = set()
        for place in self.places:
            for index in range(place, len(self.sent)):
                datagram, missing = self.sent[index]
                if datagram[:size] == data:
                    places.add(index + 1)
                if not missing:
                    break
        assert places, f"{len(data)} bytes that are not the next datagram of {self}"
        self.places = places

    def complete(self):
        return self.broken or any(all(missing for _, missing in self.sent[place:]) for place in self.places)

    def __str__(self):
        return f"[{' '.join(f'{len(data)}{"?" * missing}' for data, missing in self.waiting)}]"
