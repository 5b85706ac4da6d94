"""What the package itself answers to the cases of tests/known_answers, a module for each file."""
