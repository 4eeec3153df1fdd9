"""Where a result comes from, said in the result itself, and kept: marks, their signatures, the audit.

settings home                            what can be set; the private folder of keys, identities and the audit
authority signatory                      our own certificate authority; whoever signs, we or somebody else
manifest parents credentials library     what a C2PA manifest says, of the source too; signing it, by which library
boxes reading verdict                    what kind of file it is; reading its manifest; what is wrong with it, in words
seal                                     what the door does to every file before it gets its name
audit audit_row audit_head audit_check   the append-only table of what was trained, made, refused and revoked
"""
