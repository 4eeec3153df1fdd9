"""What training and conversion show to a person: preview sheets and evaluations."""
