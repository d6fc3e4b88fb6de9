"""Whole experiments in one command.

>>> from pathlib import Path
>>> from cxr_recipes import recipe
>>> "quickstart" in recipe.names()
True
>>> quickstart = recipe.read("quickstart")
>>> stages = quickstart.commands("tiny", Path("runs/try"), data="phantom:60")
>>> [stage[0][0] for stage in stages]
['ssl-pretrain', 'finetune', 'distill', 'evaluate']
>>> print(*stages[1][0])
finetune --architecture resnet50 --size 32 --epochs 1 --batch_size 32 --augment mild --data phantom:60 --run try
"""
