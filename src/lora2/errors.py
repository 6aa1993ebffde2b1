"""What a user of the package may see raised."""


class UserError(ValueError):
    """A mistake of the user: one sentence that names the field, the value and what to write."""


class NumericalError(ArithmeticError):
    """A loss, factor or gradient became NaN or infinite."""
