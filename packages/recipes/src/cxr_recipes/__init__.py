"""Whole experiments in one command.

>>> from pathlib import Path
>>> from cxr_recipes import recipe
>>> "quickstart" in recipe.names()
True
>>> quickstart = recipe.read("quickstart")
>>> stages = quickstart.commands("tiny", Path("runs/try"), data="phantom:60")
>>> [stage[0][0] for stage in stages]
['ssl-pretrain', 'finetune', 'distill', 'evaluate']
>>> print(*stages[0][0])
ssl-pretrain --architecture resnet50 --size 32 --epochs 1 --crops.local_count 2 --keep_state false --data phantom:60 --run try
"""
