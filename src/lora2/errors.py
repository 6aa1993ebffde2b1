"""The error that the package raises for a mistake of its user."""


class UserError(ValueError):
    """A mistake of the user: one sentence that names the field, the value and the mend."""


class UnknownFieldError(UserError, TypeError):
    """A field that a config does not have; a TypeError too, as of any unknown argument."""
