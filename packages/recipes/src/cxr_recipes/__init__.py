r"""Whole experiments in one command.

>>> from pathlib import Path
>>> from cxr_recipes import recipe
>>> print(*recipe.names(), sep="\n")
any-teacher
babaahmadi2023
bits
daniel2024
demo
desbele2025
evidence
kermany
label-efficiency
methods-multiclass
methods-multilabel
quickstart
ssl-methods
termritthikun2023
>>> quickstart = recipe.read("quickstart")
>>> stages = quickstart.commands("tiny", Path("runs/try"), data="phantom:60")
>>> [stage[0][0] for stage in stages]
['ssl-pretrain', 'finetune', 'distill', 'evaluate']
>>> print(*stages[0][0])
ssl-pretrain --architecture resnet50 --size 32 --epochs 1 --crops.local_count 2 --data phantom:60 --run try
"""
