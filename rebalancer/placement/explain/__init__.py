"""Why a placement is as it is, in words and numbers for the operator.

What each move is worth (`reasons`, by way of `rises`); what keeps a unit off a host (`obstacles`),
VMs that ought to have moved (`unmoved`) and moves that would have served the goals (`rejected`);
everything about one VM (`why_here`). What cannot be had together: `wishes` and `restrictions`
of a `case`, the minimal `conflicts` of them, and the `relaxations` that would help. And how many
hosts are missing or dispensable: `capacity`.
"""
