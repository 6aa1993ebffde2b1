"""What `lora2 train --objective` knows, one file each; `registry` has them all."""
