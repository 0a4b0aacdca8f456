"""`chunkstore demo`: the main job on real data, from conversion to a model whose training was interrupted, told as it happens.

run.py         the frame: what must be installed, where the data go, signals, the exit status
story.py       the story, step by step
data.py        digits, photographs and source code, written as datasets
training.py    model, training loop, checkpoint
rank.py        one of the two processes that resume; ranks.py starts them
delivery.py    whether an epoch was delivered exactly once
speed.py       how fast datasets stream, beside what the storage gives
plain_zarr.py  the same data without chunkstore
table.py       what was found, for a newcomer
screen.py      lines and progress bars
"""
