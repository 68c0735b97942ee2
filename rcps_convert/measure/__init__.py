"""What running a model shows: whether the law holds, at which lengths, which axes run along the sequence."""
