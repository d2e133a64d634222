"""The reading tool: the stdlib's source beside ours, `python -m uringloop side-by-side`.

No loop needs it, so it has a wing of its own. Nothing of the loop imports it, and it imports nothing
of the loop: it reads both sides as text. The mirror test holds our sources to its table, `mirror`.
"""
