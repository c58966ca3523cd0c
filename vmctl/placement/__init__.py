"""Where VMs go: masks first, then a score, over arrays of all hosts. Pure.

`fleet` keeps the arrays, `masks` says who may not, `sentences` why in words, `choice` who is best; `evacuation` and
`balance` plan many moves with the same decision.
"""
