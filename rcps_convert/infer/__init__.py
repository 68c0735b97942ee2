"""The actions of every tensor of a traced model: rules relate them, unification solves, problems are collected."""
