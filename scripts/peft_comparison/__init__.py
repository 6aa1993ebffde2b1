"""PEFT's comparison of methods on texts, by its protocol: docs/how-to/peft-comparison.md.

The protocol is that of method_comparison/MetaMathQA in https://github.com/huggingface/peft.
"""
