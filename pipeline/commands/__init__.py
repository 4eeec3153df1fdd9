"""The program's verbs, one file each: arguments, one call, printing."""
