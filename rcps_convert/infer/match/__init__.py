"""Trained models at one pass: the pairs that a model has learned are found, and its channels reordered to fit."""
