"""How reverse complement acts on an axis and on a tensor: terms, the solver, actions, and the specs users write."""
