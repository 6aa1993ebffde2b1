"""The one error that the package raises for a mistake of its user."""


class UserError(ValueError):
    """A mistake of the user: one sentence that names the field, the value and the mend."""
