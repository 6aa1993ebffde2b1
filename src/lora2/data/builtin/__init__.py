"""Tasks that come with the package: made from small grammars, and scikit-learn's digits."""
