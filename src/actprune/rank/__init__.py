"""L1: from scores to masks. Units, exact budgets, and selection in bounded memory; nothing here knows a model.

``exact``     the cut through many layers' scores, without joining or sorting them
``units``     weights seen as neurons or blocks, and back
``groups``    the lowest of every row, or of every m inputs
``allocate``  integer budgets per layer
``contest``   one layer as it enters the selection
"""
