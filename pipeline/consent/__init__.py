"""Whose face it is, and what that person has agreed to.

identity     the file identity.yaml beside a person's faces: what it says, its digest, its signature
registry     the identities known on this machine, and those revoked
policy       whether what is to be done is covered: for a training, for a model, for a job
plain_yaml forms private     YAML of strangers, checks of what it says; files that are nobody else's business
"""
