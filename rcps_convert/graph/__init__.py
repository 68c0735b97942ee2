"""From a user's module to a list of operators: copies that leave no trace, ``torch.export``, the graph read back."""
