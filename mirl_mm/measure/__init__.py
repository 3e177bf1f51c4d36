"""Numbers from a model: what its frozen features are worth, and what a step of it costs."""
