"""What was run, for the summary."""

import collections


class Counts:
    """Of the runs on one kind of loop."""

    def __init__(self):
        self.examples = self.steps = self.cancels = self.with_cancel = self.faults = self.compared = 0
        self.operations = collections.Counter()
        self.kinds = collections.Counter()  # of steps that had something to do
        self.idle = collections.Counter()  # of those that had not
        self.hits = collections.Counter()  # lines that were interrupted
        self.deeds = collections.Counter()  # done to neighbours

    def count_step(self, name, done):
        self.steps += done
        (self.kinds if done else self.idle)[name] += 1

    def count_deed(self, name, done):
        if done:
            self.deeds[name] += 1

    def shares(self):
        """Of all steps, what share has each kind."""
        steps = ", ".join(f"{name} {count / max(1, self.steps):.1%}" for name, count in self.kinds.most_common())
        deeds = ", ".join(f"{count} {name}" for name, count in self.deeds.most_common())
        return f"{steps}; to neighbours: {deeds}; {self.hits.total()} interrupts at {len(self.hits)} lines"

    def __str__(self):
        average = self.steps / max(1, self.examples)
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.operations.items()))
        return (
            f"{self.examples} examples of {average:.1f} steps, {self.with_cancel} with a cancel between "
            f"submission and completion ({self.cancels} cancels), {self.compared} outcomes as on the selector loop, "
            f"{self.faults} faults; {outcomes}"
        )
