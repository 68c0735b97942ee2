"""The public verbs: plan, convert, bake, decorate; each is a short sequence of stages of the other folders."""
