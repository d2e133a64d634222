"""What was run, for the summary."""

import collections


class Counts:
    """Of the runs on one kind of loop."""

    def __init__(self):
        self.examples = self.steps = self.cancels = self.with_cancel = self.faults = self.compared = 0
        self.operations = collections.Counter()

    def __str__(self):
        average = self.steps / max(1, self.examples)
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.operations.items()))
        return (
            f"{self.examples} examples of {average:.1f} steps, {self.with_cancel} with a cancel between "
            f"submission and completion ({self.cancels} cancels), {self.compared} outcomes as on the selector loop, "
            f"{self.faults} faults; {outcomes}"
        )
