"""The entry of the command line: answers at once what needs none of the package's imports.

It imports the package `lora2`, which imports PEFT, transformers and torch, for a command alone.
"""
