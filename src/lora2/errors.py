"""What a user of the package may see raised."""


class UserError(ValueError):
    """A mistake of the user: one sentence that names the field, the value and what to write."""


class UnknownFieldError(UserError, TypeError):
    """A field that a config does not have; a TypeError too, as of any unknown argument."""


class OtherModelError(UserError):
    """An adapter that was trained on another base model than the one it is given."""


class NumericalError(ArithmeticError):
    """A loss, weight, factor, gradient or output is NaN or infinite."""


class MergedWeightError(NumericalError, ValueError):
    """A merged weight would hold NaN or infinity; PEFT raises a ValueError there."""
