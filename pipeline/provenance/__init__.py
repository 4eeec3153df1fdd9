"""Where a result comes from, said in the result itself, and kept: marks, their signatures, the audit.

settings home              what can be set; the private folder of keys, identities and the audit
authority                  our own certificate authority, and the certificate that signs
manifest credentials       what a C2PA manifest says; signing it, reading it, telling what is wrong with it
seal                       what the door does to every file before it gets its name
audit                      the append-only table of what was trained, made, refused and revoked
"""
