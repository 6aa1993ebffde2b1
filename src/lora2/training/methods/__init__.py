"""The methods that `lora2 train --method` knows, one file each; `registry` has them all."""
