"""What the parts of a world have in common: their share in its end, and what their protocols do alike."""

import asyncio


class Part:
    """One kind of things in a world.

    A world ends in order (let_go, until delivered, close, until has_closed) or abruptly (abort, until
    has_aborted, and rest after its loops were closed); after a failure there is clean_up.  A part
    says what is its own in that, and by default there is nothing.
    """

    def __init__(self, world):
        super().__init__()
        self.world = world

    def let_go(self):
        """Hold nothing back that was sent."""

    def delivered(self):
        return True

    def close(self):
        pass

    def has_closed(self):
        return True

    def abort(self):
        pass

    def has_aborted(self):
        return True

    def rest(self):
        pass

    def clean_up(self):
        pass


class Things(Part, list):
    """A part that is a list of things, each with a history of the steps that worked on it."""

    def choose(self, number, suits):
        """Return a thing to work on, the first that suits from the number on, or None."""
        for index in range(len(self)):
            thing = self[(number + index) % len(self)]
            if suits(thing):
                thing.history.append(self.world.step)
                return thing
        return None


class FlowControlled(asyncio.BaseProtocol):
    """A protocol with a `world`; `writable` until it is told to pause, and again from its resumption on."""

    writable = True

    def pause_writing(self):
        with self.world.watched():
            assert self.writable
        self.writable = False

    def resume_writing(self):
        with self.world.watched():
            assert not self.writable
        self.writable = True
