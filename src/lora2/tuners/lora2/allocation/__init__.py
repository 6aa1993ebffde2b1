"""Which singular values live: budget, sensitivities, allocator; imports the layers."""
