"""What all our PEFT methods share: layers, tuner, targets; imports none of the methods."""
