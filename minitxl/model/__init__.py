"""The paper: operations, attention, layers, the language model, each with its backward pass."""
