"""L1: from scores to masks. Units, exact budgets, and selection in bounded memory; nothing here knows a model.

``units``       what is removed as one piece: weights, neurons, tiles
``candidates``  what competes
``threshold``   where the cut lies: exact, without joining or sorting the scores of all layers
``ties``        the seeded order of equal scores
``rows``        the lowest of every row, or of every m inputs
``allocate``    integer budgets per layer
``selection``   scope, allocation and budget applied to candidates
"""
