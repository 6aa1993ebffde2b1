"""The objectives of `lora2 train --objective`, one file each; `registry` has them all."""
