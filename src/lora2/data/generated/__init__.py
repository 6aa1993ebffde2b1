"""Tasks that are made from small grammars, and scikit-learn's digits."""
