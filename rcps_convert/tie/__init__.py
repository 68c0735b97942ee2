"""What a converted model carries: parametrizations of its weights, shared norms, symmetrisers, length guards."""
