"""Files, optional packages and the machine; imports nothing of lora2 but its errors."""
