"""Our PEFT methods, one folder each, laid out as PEFT lays out its own; imports mathematics."""
